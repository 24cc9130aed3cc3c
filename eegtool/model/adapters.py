"""Adapters on disk: what fine-tuning trains, saved with the contract it must be asked with."""

from __future__ import annotations

import copy
import hashlib
import math
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, cast

import torch
from peft import (
    LoraConfig,
    PeftModel,
    get_peft_model,
    get_peft_model_state_dict,
    set_peft_model_state_dict,
)
from peft.tuners.lora import LoraLayer
from peft.utils.integrations import dequantize_module_weight, gather_params_ctx
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from eegtool.core.errors import EegToolError, brief
from eegtool.core.forms import CHAT
from eegtool.core.registry import check_name
from eegtool.core.workspace import read_json, sha256_of, write_json
from eegtool.model.checkpoints import (
    AnyProcessor,
    Base,
    Network,
    base_sha256,
    find_base,
    load_base,
    load_processor,
)
from eegtool.model.contract import wrong_field
from eegtool.model.eegvlm import FUSIONS
from eegtool.model.loading import check_keys, quiet
from eegtool.model.processor import TEMPLATES, PixelSpec

_SHELL: Final = "base_model.model."
"""What PEFT puts before the names of a model's parameters."""
_CARD: Final = "eegvlm.json"
_ADAPTER: Final = "adapter_model.safetensors"
_PROJECTOR_FILE: Final = "projector.safetensors"
_UNTRAINED_TOKENS: Final = 64
"""Space for the answer of a base that was taught no form: a sentence or two."""


@dataclass(frozen=True, slots=True)
class Contract:
    """What an adapter was trained with and must be asked with (``eegvlm.json`` of its folder)."""

    base: str
    """Name or absolute path of the base model."""
    base_sha256: str
    """Hash of the base model's configuration and weights (see `checkpoints.base_sha256`)."""
    fusion: str
    version: str
    """Name of the conversation template; ``chat`` for that of the model's family."""
    pixel_spec: PixelSpec
    features_weights_sha256: str
    """Weights of the vision module that made the features; empty where not known."""
    features: str
    """Source of the features in training: real, shuffled or zero."""
    context: int = 0
    """Epochs on either side that they know of."""
    protocol: dict[str, Any] = field(default_factory=dict)
    """How epochs and pictures were made (channel, filter, style, size, ...), as prepare stamped it."""
    vision_tower: str = ""
    """Name or absolute path of the vision tower: original LLaVA layout only."""
    family: str = "llava"
    """``model_type`` of the base model."""
    bits: int = 16
    """Of a weight of the base in training; 4 where it was packed. It is asked with 16 bits."""
    merged: bool = False
    """Whether the folder holds base and adapter in one (`eegvlm export`)."""
    answers: dict[str, Any] = field(default_factory=dict)
    """How to ask and how an answer reads, as the samples taught it (see `answer_form.AnswerForm`)."""
    sequence: dict[str, Any] = field(default_factory=dict)
    """How stages follow each other in the nights of the training subjects (see `Workspace.sequence`)."""
    validation: dict[str, Any] = field(default_factory=dict)
    """Subjects of the fine-tune side that were held out while it was trained, and how many of their epochs were
    scored; where the best weights were chosen, the step that they are of, and its figures."""


def add_lora(
    model: Network,
    *,
    r: int,
    alpha: int,
    dropout: float,
    use_dora: bool = False,
    use_rslora: bool = False,
    dtype: torch.dtype = torch.float32,
) -> PeftModel:
    """Put LoRA on every linear layer of the language model, and open the projector for training.

    The layers are found by type below the language model; the vision tower is never touched.

    Parameters
    ----------
    model : EEGVLM or FusedModel
        The base model; LoRA is put into it.
    r, alpha, dropout, use_dora, use_rslora : int, int, float, bool, bool
        See `peft.LoraConfig`.
    dtype : torch.dtype
        Precision of all that is trained, LoRA and projector alike, whatever the base has.
    """
    language = model.get_decoder()
    prefix = next(name for name, module in model.named_modules() if module is language)
    leaves = sorted(
        {n.split(".")[-1] for n, m in language.named_modules() if isinstance(m, torch.nn.Linear)}
    )
    config = LoraConfig(
        r=r,
        lora_alpha=alpha,
        lora_dropout=dropout,
        use_dora=use_dora,
        use_rslora=use_rslora,
        target_modules=rf"{re.escape(prefix)}\..*\.({'|'.join(leaves)})",
    )
    with quiet():
        peft_model = get_peft_model(model, config, autocast_adapter_dtype=False)
    for name, parameter in model.named_parameters():
        if name.startswith(f"{model.projector}."):
            parameter.requires_grad_(True)
    for parameter in peft_model.parameters():
        if parameter.requires_grad and parameter.dtype != dtype:
            parameter.data = parameter.data.to(dtype)
    for layer in _dora_layers(peft_model):  # peft has measured them in the precision of the base
        (magnitude,) = layer.lora_magnitude_vector.values()
        base = layer.get_base_layer()
        with gather_params_ctx(base.parameters()):
            magnitude.weight.data = torch.linalg.norm(
                dequantize_module_weight(base).to(dtype), dim=1
            )
    if wrong := wrongly_trained(peft_model):
        raise RuntimeError(f"{wrong[0]} would be trained; it must stay frozen.")
    return peft_model


def wrongly_trained(model: PeftModel) -> list[str]:
    """Return the names of what would be trained and must stay as it is: all but LoRA on the language model and the projector."""
    base = inner(model)
    language = {id(p) for p in base.get_decoder().parameters()}
    return [
        name
        for name, parameter in base.named_parameters()
        if parameter.requires_grad
        and not name.startswith(f"{base.projector}.")
        and not ("lora_" in name and id(parameter) in language)
    ]


def _dora_layers(model: torch.nn.Module) -> Iterator[LoraLayer]:
    """Yield the layers of LoRA that have a length for each row of their weight."""
    for layer in model.modules():
        if isinstance(layer, LoraLayer) and any(layer.use_dora.values()):
            yield layer


def start_from(folder: Path, model: PeftModel) -> None:
    """Give LoRA and projector the weights of an adapter, so that its training is continued on other samples.

    Raises
    ------
    EegToolError
        If a weight is missing, left over, of another shape or not a finite number.
    """
    projector, lora = _read_trained(folder, torch.float32, exact=True)
    given = lora | {f"{_SHELL}{name}": tensor for name, tensor in projector.items()}
    places = {
        name.replace(".default.weight" if "lora_magnitude" in name else ".default", ""): parameter
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }
    check_keys(folder / _ADAPTER, places.keys() - given.keys(), given.keys() - places.keys())
    for name, parameter in places.items():
        with gather_params_ctx([parameter]):
            if parameter.numel() and parameter.shape != given[name].shape:
                raise _unfitting(folder, ValueError(f"{name} has another shape"))
            if parameter.numel():
                parameter.data.copy_(given[name])


def trained_table(model: torch.nn.Module) -> list[tuple[str, int, int]]:
    """Count the parameters of each part of a model.

    Returns
    -------
    list of (str, int, int)
        Part, how many of its parameters are trained, how many there are in all: of all ranks where
        ZeRO-3 shards them, and as many as before where they are packed in 4 bits.
    """
    counts = {"vision tower": [0, 0], "projector": [0, 0], "language model (LoRA)": [0, 0]}
    base = inner(model)
    language = {id(p) for p in base.get_decoder().parameters()}
    language |= {id(p) for p in base.get_output_embeddings().parameters()}
    for name, parameter in base.named_parameters():
        part = "language model (LoRA)" if id(parameter) in language else "vision tower"
        count = counts["projector" if name.startswith(f"{base.projector}.") else part]
        n = getattr(parameter, "ds_numel", parameter.numel())
        if type(parameter).__name__ == "Params4bit":
            n *= 2 * parameter.element_size()
        count[0] += n * parameter.requires_grad
        count[1] += n
    return [(part, trained, total) for part, (trained, total) in counts.items()]


def write_adapter(
    folder: Path,
    model: PeftModel,
    state: Mapping[str, torch.Tensor],
    contract: Contract,
    *,
    check_learnt: bool = True,
) -> None:
    """Write LoRA, projector and contract into `folder`; other files there stay.

    Everything is written beside its place, read again and checked, and only then takes its name;
    ``eegvlm.json`` comes last, so a folder that has it is a whole adapter.

    Parameters
    ----------
    folder : Path
        Where it goes; made if need be.
    model : PeftModel
        The trained model; of its weights only names and configuration are read.
    state : dict of str to Tensor
        Every trained parameter by its name in `model`, gathered from all ranks.
    contract : Contract
        What it was trained with.
    check_learnt : bool
        Refuse LoRA that has not moved. Off for checkpoints on the way: warm-up may begin at zero.

    Raises
    ------
    EegToolError
        If the training diverged, nothing was learnt, or the files do not hold what was written.
    RuntimeError
        If a gathered parameter is empty.
    """
    lora, projector = _parts(model, state)
    if check_learnt and not any(bool(v.any()) for k, v in lora.items() if "lora_B" in k):
        raise EegToolError(
            "LoRA has not moved from its start: nothing was learnt.",
            "Train for more steps, with a --learning-rate above 0.",
        )
    config = copy.copy(model.peft_config["default"])
    config.inference_mode = True
    config.base_model_name_or_path = contract.base
    tensors = get_peft_model_state_dict(model, lora, save_embedding_layers=False)
    if len(tensors) != len(lora):
        raise RuntimeError(f"{len(tensors)} of {len(lora)} LoRA tensors were kept.")
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".adapter-") as tmp:
        made = Path(tmp) / "made"  # mkdtemp's own folder only its owner may enter
        config.save_pretrained(made)
        for name, part in ((_ADAPTER, tensors), (_PROJECTOR_FILE, projector)):
            # save_file makes files that only their owner can read
            (made / name).write_bytes(save(part, {"format": "pt"}))
            _verify(made / name, part)
        (made / "README.md").write_text(_card_text(contract), encoding="utf-8")
        write_json(made / _CARD, asdict(contract))
        (folder / _CARD).unlink(missing_ok=True)
        for path in sorted(made.iterdir(), key=lambda path: path.name == _CARD):
            path.replace(folder / path.name)


def write_projector(folder: Path, model: Network) -> None:
    """Write the projector of the features beside a merged model whose family has none."""
    own = f"{model.projector}."
    state = {k: v.contiguous() for k, v in model.state_dict().items() if k.startswith(own)}
    if state:
        (folder / _PROJECTOR_FILE).write_bytes(save(state, {"format": "pt"}))
        _verify(folder / _PROJECTOR_FILE, state)


def _parts(
    model: PeftModel, state: Mapping[str, torch.Tensor]
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Return the LoRA and the projector of the trained parameters, if they can be saved."""
    own = f"{_SHELL}{inner(model).projector}."
    lora = {k: v.contiguous() for k, v in state.items() if "lora_" in k}
    projector = {
        k.removeprefix(_SHELL): v.contiguous() for k, v in state.items() if k.startswith(own)
    }
    expected = any(name.startswith(own) for name, _ in model.named_parameters())
    if not lora or (expected and not projector) or any(v.numel() == 0 for v in state.values()):
        raise RuntimeError("Trained parameters came back empty: they were not gathered.")
    if not all(bool(v.isfinite().all()) for v in state.values()):
        raise EegToolError(
            "The training diverged: trained weights are not finite numbers.",
            "Lower --learning-rate or --mm-projector-lr.",
        )
    return lora, projector


def _verify(path: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """Read a file again and compare it with what was to be written."""
    found = _read_tensors(path)
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    if {name: tensor.shape for name, tensor in found.items()} != shapes or not all(
        bool(tensor.isfinite().all()) for tensor in found.values()
    ):
        raise EegToolError(
            f"{path.name} does not hold what was written to it.",
            "Check the disk it was written to.",
        )


def read_contract(folder: Path) -> Contract:
    """Read what a folder that can be asked says about itself: adapter, checkpoint or merged model.

    A base that nobody has fine-tuned says nothing: it is asked as it is (see `untrained_contract`).

    Raises
    ------
    EegToolError
        If it is none of these, or not a whole one, or a field holds what it may not.
    """
    if is_untrained(folder):
        return untrained_contract(folder)
    _need(folder, _CARD)
    raw = read_json(folder / _CARD)
    if wrong := wrong_field(raw):
        raise EegToolError(
            f"{folder / _CARD}: {wrong}.",
            "Take the file as `eegvlm finetune` or `export` wrote it.",
        )
    try:
        spec = raw.pop("pixel_spec")
        spec = PixelSpec(spec["size"], tuple(spec["mean"]), tuple(spec["std"]))
        contract = Contract(**raw, pixel_spec=spec)
    except (KeyError, TypeError) as error:
        raise EegToolError(f"{folder / _CARD} is not readable as a contract: {error}.") from error
    check_name("fusion", contract.fusion, FUSIONS)
    check_name("conversation template", contract.version, [*TEMPLATES, CHAT])
    parts = (_ADAPTER, "adapter_config.json", _PROJECTOR_FILE)
    _need(folder, *(("config.json",) if contract.merged else parts))
    return contract


def is_untrained(folder: Path) -> bool:
    """Say whether a folder holds a base model, and nothing that was trained here."""
    return (folder / "config.json").is_file() and not (folder / _CARD).is_file()


def untrained_contract(folder: Path) -> Contract:
    """Return how a base model is asked as it is: without features, in the template that it has, or LLaVA-1.5's.

    Its answers are expected to begin with the stage, and may continue.

    Raises
    ------
    EegToolError
        If it is not a base model (see `find_base` and `load_processor`).
    """
    base = find_base(str(folder))
    version = base.template("v1")
    return Contract(
        base=str(base.folder),
        base_sha256=base_sha256(base),
        family=base.name,
        fusion="none",
        version=version,
        pixel_spec=load_processor(base, fusion="none", version=version).pixel_spec,
        features_weights_sha256="",
        features="real",
        vision_tower=str(base.vision_tower or ""),
        merged=True,
        answers={"place": "start", "max_new_tokens": _UNTRAINED_TOKENS},
    )


def _need(folder: Path, *names: str) -> None:
    for name in names:
        if not (folder / name).is_file():
            # By number: longer ones are greater.
            saved = sorted(folder.glob(f"checkpoint-*/{_CARD}"), key=lambda p: (len(str(p)), p))
            raise EegToolError(
                f"{folder} is not an adapter folder of `eegvlm finetune`: it has no {name}.",
                f"Its training has not ended; ask its checkpoint {saved[-1].parent}."
                if saved and name == _CARD
                else "Give the folder that `eegvlm finetune` wrote (its --output-dir).",
            )


def adapter_sha256(folder: Path) -> str:
    """Hash the trained weights: the identity of a model in its answers."""
    names = (_ADAPTER, _PROJECTOR_FILE)
    hashes = [sha256_of(folder / name) for name in names if (folder / name).is_file()]
    if read_contract(folder).merged:
        whole = base_sha256(find_base(str(folder)))
        if not hashes:
            return whole
        hashes.append(whole)
    return hashlib.sha256("".join(hashes).encode()).hexdigest()


def contract_base(
    folder: Path, contract: Contract, base: str | None = None, vision_tower: str = ""
) -> Base:
    """Find the base model that a folder must be asked with; no weights are read.

    Parameters
    ----------
    folder : Path
        Where the contract was read; a merged model is its own base.
    contract : Contract
        What it says.
    base, vision_tower : str, optional
        Where they lie here, if not where they lay in training.

    Raises
    ------
    EegToolError
        If the base is not there, or another one than it was trained on.
    """
    if contract.merged:
        return find_base(str(folder))
    found = find_base(base or contract.base, vision_tower or contract.vision_tower)
    if found.name != contract.family:
        raise EegToolError(
            f"{folder} was trained on a '{contract.family}' model; {found.folder} is a '{found.name}' model.",
            "Give the base model it was trained on with --model-base.",
        )
    if base_sha256(found) != contract.base_sha256:
        raise EegToolError(
            f"{folder} was trained on the base model '{contract.base}'; {found.folder} is another one.",
            "Give the base model it was trained on with --model-base.",
        )
    return found


def prompt_of(base: Base, contract: Contract, template: str) -> Callable[[str, int], str]:
    """Return what makes, of a question and its number of pictures, the text that a model sees.

    Raises
    ------
    EegToolError
        If the model cannot be asked by a template of that name.
    """
    own = [CHAT] if contract.version == CHAT else TEMPLATES
    check_name("conversation template", template, own)
    if template != CHAT:
        return TEMPLATES[template].prompt
    processor = load_processor(
        base, fusion=contract.fusion, version=template, side=contract.pixel_spec.size
    )
    return cast("Callable[[str, int], str]", processor.prompt)


def load_adapter(
    folder: Path,
    *,
    base: str | None,
    dtype: torch.dtype,
    attention: str = "auto",
    vision_tower: str = "",
    device: torch.device | None = None,
    merge: bool = False,
) -> tuple[PeftModel | Network, AnyProcessor, Contract]:
    """Load a model for inference, with no weight missing and none left over.

    Parameters
    ----------
    folder : Path
        An adapter folder, a ``checkpoint-N`` folder in it, or what `eegvlm export` made.
    base, vision_tower : str, optional
        Where the base lies here, if not where it lay in training.
    dtype : torch.dtype
        Precision of the base, LoRA and projector.
    attention, device
        See `load_base`.
    merge : bool
        Add LoRA to the weights of the base (see `merge_lora`).

    Returns
    -------
    PeftModel, EEGVLM or FusedModel
        Base and LoRA; a merged model has no shell of PEFT around it (see `inner`).
    Processor or FamilyProcessor
        It makes pictures as in training, whatever the base says.
    Contract
        What the folder says about itself.

    Raises
    ------
    EegToolError
        If the folder is none of these, the base is another one than it was trained on, any weight
        does not find its place, is not a finite number or cannot be held in `dtype`, or LoRA is zero.
    """
    contract = read_contract(folder)
    base_model = contract_base(folder, contract, base, vision_tower)
    trained = () if contract.merged else _read_trained(folder, dtype, exact=merge)
    model, processor = load_base(
        base_model,
        fusion=contract.fusion,
        version=contract.version,
        side=contract.pixel_spec.size,
        dtype=dtype,
        attention=attention,
        device=device,
    )
    if contract.merged and model.projector_is_own and FUSIONS[contract.fusion].needs_features:
        _need(folder, _PROJECTOR_FILE)
        _load_projector(folder, model, _read_tensors(folder / _PROJECTOR_FILE))
    if contract.merged:
        _check_finite(folder, dict(model.named_parameters()), dtype)
    if processor.pixel_spec.size != contract.pixel_spec.size:
        raise EegToolError(
            f"{folder / _CARD}: pixel_spec.size is {contract.pixel_spec.size}; the vision tower takes "
            f"pictures of {processor.pixel_spec.size} px.",
            "Take the file as `eegvlm finetune` or `export` wrote it.",
        )
    if not contract.merged:
        model = _adapted(folder, model, *trained, exact=merge)
        model = merge_lora(model) if merge else model
    model.eval()
    return model, processor.asked(contract.pixel_spec, contract.version), contract


def merge_lora(model: PeftModel) -> Network:
    """Add LoRA's product to the weights of each layer, and give DoRA's rows their lengths.

    All is computed in float32, and rounded once.

    Raises
    ------
    EegToolError
        If a sum is not a number in the precision of the weights.
    """
    for layer in model.modules():
        if isinstance(layer, LoraLayer):
            weight = layer.get_base_layer().weight
            (name,) = layer.active_adapters
            total = weight.data.float() + layer.get_delta_weight(name).float()
            if layer.use_dora[name]:  # arXiv 2402.09353, equation 5
                magnitude = layer.lora_magnitude_vector[name].weight.float()
                total *= (magnitude / torch.linalg.norm(total, dim=1))[:, None]
            total = total.to(weight.dtype)
            if not bool(total.isfinite().all()):
                raise EegToolError(
                    f"The merged weights cannot be held in {str(weight.dtype).removeprefix('torch.')}.",
                    "Use --dtype bfloat16 or float32.",
                )
            weight.data = total
    with quiet():
        merged: Network = model.unload()
    if any(isinstance(module, LoraLayer) for module in merged.modules()):
        raise RuntimeError("LoRA layers are left after merging.")
    return merged


def inner(model: PeftModel | Network) -> Network:
    """Return the model without PEFT's shell around it; LoRA layers stay in place."""
    return model.get_base_model() if isinstance(model, PeftModel) else model


def _adapted(
    folder: Path,
    model: Network,
    projector: dict[str, torch.Tensor],
    lora: dict[str, torch.Tensor],
    *,
    exact: bool,
) -> PeftModel:
    """Put projector and LoRA of a folder into its base; LoRA in its precision, or in float32 if `exact`."""
    _load_projector(folder, model, projector)
    config = _read_lora_config(folder, lora)
    try:
        with quiet():
            peft_model = get_peft_model(model, config, autocast_adapter_dtype=exact)
        result = set_peft_model_state_dict(peft_model, lora)
    # PyTorch's word for a weight of another shape, and peft's for layers that are not there
    except (RuntimeError, ValueError) as error:
        raise _unfitting(folder, error) from error
    missing = [k for k in result.missing_keys if "lora_" in k]
    check_keys(folder / _ADAPTER, missing, result.unexpected_keys)
    return peft_model


def _load_projector(folder: Path, model: Network, projector: dict[str, torch.Tensor]) -> None:
    """Put the projector of a folder into a model, with no weight missing and none left over."""
    own = {k for k in model.state_dict() if k.startswith(f"{model.projector}.")}
    check_keys(folder / _PROJECTOR_FILE, own - projector.keys(), projector.keys() - own)
    try:
        model.load_state_dict(projector, strict=False)
    except RuntimeError as error:
        raise _unfitting(folder, error) from error


def _unfitting(folder: Path, error: Exception) -> EegToolError:
    return EegToolError(f"{folder} does not fit the model: {error}")


def _read_lora_config(folder: Path, lora: Mapping[str, torch.Tensor]) -> LoraConfig:
    """Read how LoRA was put on the base, if it is such as finetune writes it for these weights."""
    path = folder / "adapter_config.json"
    kind = read_json(path).get("peft_type")
    try:
        if kind != "LORA":
            raise ValueError(f"peft_type is {kind!r}, not 'LORA'")
        config = LoraConfig.from_pretrained(folder)
        rank, alpha = config.r, config.lora_alpha
        largest = max((len(v) for k, v in lora.items() if "lora_A" in k), default=1)
        if not (type(rank) is int and 1 <= rank <= largest):
            raise ValueError(f"r is {rank!r}, and its largest weights have rank {largest}")
        if type(alpha) not in (int, float) or not 0 < alpha < math.inf:
            raise ValueError(f"lora_alpha is {alpha!r}, not a number above 0")
        for name in ("use_dora", "use_rslora"):
            if type(getattr(config, name)) is not bool:
                raise ValueError(f"{name} is {getattr(config, name)!r}, neither true nor false")
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise EegToolError(
            f"{path} is not readable as the configuration of LoRA: {brief(error)}.",
            "Take the file as `eegvlm finetune` wrote it.",
        ) from error
    config.base_model_name_or_path = None  # peft warns of a folder that has moved; ours is checked
    return config


def _read_trained(
    folder: Path, dtype: torch.dtype, *, exact: bool
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Read projector and LoRA of a folder, if they can be asked in `dtype`; LoRA in float32 if `exact`."""
    projector, lora = (_read_tensors(folder / name) for name in (_PROJECTOR_FILE, _ADAPTER))
    _check_finite(folder / _PROJECTOR_FILE, projector, dtype)
    _check_finite(folder / _ADAPTER, lora, torch.float32 if exact else dtype)
    up = {name: tensor for name, tensor in lora.items() if "lora_B" in name}
    if up and not any(bool(tensor.any()) for tensor in up.values()):
        raise EegToolError(
            f"{folder / _ADAPTER}: LoRA is zero ({min(up)} and all other lora_B), so the base model "
            "alone would answer.",
            "Its training had learnt nothing yet; take a later checkpoint, or fine-tune again.",
        )
    return projector, lora


def _check_finite(where: Path, tensors: Mapping[str, torch.Tensor], dtype: torch.dtype) -> None:
    """Refuse weights of which any is not a number, or none in the precision that is asked for."""
    for name, tensor in tensors.items():
        if not bool(tensor.isfinite().all()):
            raise EegToolError(
                f"{where}: {name} has values that are not finite numbers.",
                "Its training diverged, or the file is damaged; take another checkpoint, or fine-tune "
                "again with a lower --learning-rate.",
            )
        if not bool(tensor.to(dtype).isfinite().all()):
            raise EegToolError(
                f"{where}: {name} cannot be held in {str(dtype).removeprefix('torch.')}.",
                "Use --dtype bfloat16 or float32.",
            )


def _read_tensors(path: Path) -> dict[str, torch.Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise EegToolError(f"{path} cannot be read: {error}.", "Fine-tune again.") from error


def _card_text(contract: Contract) -> str:
    return f"""# EEG-VLM adapter

LoRA and projector for `{contract.base}`, made by `eegvlm finetune`.

| file | what |
|---|---|
| `adapter_model.safetensors`, `adapter_config.json` | LoRA on the language model (PEFT) |
| `projector.safetensors` | the projector of the high-level features |
| `eegvlm.json` | what it must be asked with: base, fusion `{contract.fusion}`, template `{contract.version}`, pixels, features |
| `vision_module/` | the vision module that makes the features, where it was at hand |
| `run.json` | stamp of the run: settings, versions, inputs |

Ask it with `eegvlm evaluate --model-path THIS_FOLDER`, about one picture with
`eegvlm ask PICTURE --model-path THIS_FOLDER`. Research use only: not a medical device.
"""
