"""export: merge adapter and base into one model folder, on the CPU, and share it if asked.

The folder has Hugging Face's layout and the contract of the adapter, so `eegvlm evaluate` asks it like an
adapter folder, without needing the base.
"""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import Final

import httpx
import torch
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError
from rich.markup import escape

from eegtool.core.console import console
from eegtool.core.errors import EegToolError, brief
from eegtool.core.workspace import check_folder, read_json, run_stamp, write_json
from eegtool.extract.stored import STORED, store_module
from eegtool.finetune import card
from eegtool.finetune.options import ExportSettings
from eegtool.model.adapters import (
    Contract,
    adapter_sha256,
    contract_base,
    inner,
    is_untrained,
    load_adapter,
    read_contract,
    write_projector,
)
from eegtool.model.checkpoints import AnyProcessor, Base, Network, find_base, load_processor
from eegtool.model.loading import quiet

_STAMP: Final = "run.json"
_HUB_ERRORS: Final = (OSError, ValueError, HfHubHTTPError, httpx.HTTPError)


def run(settings: ExportSettings) -> None:
    """Leave a folder with the merged model behind: whole, or not at all.

    Raises
    ------
    EegToolError
        If folders, names, licence, disk or hub are not as they must be: before a weight is read; or if
        the merged weights cannot be held in that precision.
    """
    settings = replace(settings, out=settings.out.resolve())  # '.' cannot be renamed to
    contract, base = _check(settings)
    licence = settings.licence or card.licence_of(contract.base, base.folder)
    shown = card.Card(
        name=settings.push_to_hub or settings.out.name,
        contract=contract,
        lora=read_json(settings.model_path / "adapter_config.json"),
        licence=licence,
        dtype=settings.dtype,
        metrics=card.read_metrics(settings.metrics, contract) if settings.metrics else None,
    ).text()
    _check_sharing(settings, licence)
    identity = adapter_sha256(settings.model_path)
    console.print(
        f"Merging [bold]{escape(str(settings.model_path))}[/] into {escape(contract.base)} "
        f"on the CPU, in {settings.dtype}"
    )
    model, processor = _merged(settings)
    settings.out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(
        dir=settings.out.parent, prefix=f".{settings.out.name}-"
    ) as tmp:
        made = Path(tmp) / "made"  # mkdtemp's own folder only its owner may enter
        made.mkdir()
        n_bytes = _write(made, model, processor)
        contract = _without_places(replace(contract, merged=True))
        write_json(made / "eegvlm.json", asdict(contract))
        (made / "README.md").write_text(shown, encoding="utf-8")
        _check_tokens(made, processor, contract)
        store_module(settings.model_path / STORED, made, contract.features_weights_sha256)
        stamp = run_stamp(
            "export",
            settings,
            inputs={"adapter": identity, "base": contract.base_sha256},
            protocol=contract.protocol,
            results={"bytes": n_bytes},
        )
        write_json(made / _STAMP, stamp)
        if settings.out.exists():
            settings.out.rmdir()  # it is empty
        made.rename(settings.out)
    console.print(
        f"Merged model: [bold]{escape(str(settings.out))}[/] ({n_bytes / 1e9:,.1f} GB of weights)"
    )
    if not licence:
        console.print("[yellow]The licence of the base is not known; give it with --licence.[/]")
    if settings.push_to_hub:
        _push(settings)


def _check(settings: ExportSettings) -> tuple[Contract, Base]:
    """Check folders and disk; return what the adapter says about itself, and its base."""
    out = settings.out
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise EegToolError(
            f"--out {out} is not an empty folder.",
            "Choose another one; nothing in it is overwritten.",
        )
    if out == Path.cwd() or out.is_mount():
        raise EegToolError(
            f"--out {out} cannot be replaced while it is in use.", "Give a new folder in it."
        )
    check_folder(out.parent, "The folder of --out")
    contract = read_contract(settings.model_path)
    if is_untrained(settings.model_path):
        raise EegToolError(
            f"{settings.model_path} was not fine-tuned: there is nothing to merge.",
            "Give the folder that finetune wrote.",
        )
    if contract.merged:
        raise EegToolError(
            f"{settings.model_path} is merged already.", "Give the folder that finetune wrote."
        )
    base = contract_base(settings.model_path, contract, settings.model_base, settings.vision_tower)
    n_weights = sum(p.numel() for p in base.empty(contract.fusion).parameters())
    needed = n_weights * getattr(torch, settings.dtype).itemsize
    place = next(p for p in out.parents if p.is_dir())
    free = shutil.disk_usage(place).free
    if free < 1.05 * needed:
        raise EegToolError(
            f"The merged model needs {needed / 1e9:,.1f} GB; {place} has {free / 1e9:,.1f} GB free.",
            "Make room, or give an --out on another disk.",
        )
    return contract, base


def _check_sharing(settings: ExportSettings, licence: str) -> None:
    """Refuse, before the work, what the hub would refuse after it."""
    if not settings.push_to_hub:
        return
    if not licence:
        raise EegToolError(
            "The folder of the base model does not say its licence, which binds the merged model, too.",
            "Look it up and give it with --licence, such as --licence llama2.",
        )
    if not card.HUB_NAME.fullmatch(settings.push_to_hub):
        raise EegToolError(
            f"--push-to-hub {settings.push_to_hub} is no name on the hub.",
            "Names are USER/NAME, of letters, digits, '-', '_' and '.'.",
        )
    try:
        HfApi().whoami()
    except _HUB_ERRORS as error:
        raise EegToolError(
            f"--push-to-hub {settings.push_to_hub}: {brief(error)}.",
            "Log in with `hf auth login`, or leave the flag out.",
        ) from error


def _merged(settings: ExportSettings) -> tuple[Network, AnyProcessor]:
    """Load base and adapter as one model."""
    model, processor, _ = load_adapter(
        settings.model_path,
        base=settings.model_base,
        dtype=getattr(torch, settings.dtype),
        attention="sdpa",
        vision_tower=settings.vision_tower,
        merge=True,
    )
    return inner(model), processor


def _write(folder: Path, model: Network, processor: AnyProcessor) -> int:
    """Write the plain model of the family, its processor, and what it has not; return the bytes of all weights."""
    with quiet():
        model.save_plain(folder)
    processor.save(folder)
    if model.projector_is_own:
        write_projector(folder, model)
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


def _check_tokens(folder: Path, processor: AnyProcessor, contract: Contract) -> None:
    """Read the folder as evaluate will, and refuse it if a question comes out in other tokens."""
    again = load_processor(
        find_base(str(folder)),
        fusion=contract.fusion,
        version=contract.version,
        side=contract.pixel_spec.size,
    )
    question = "Which stage? Answer N1, N2 or REM."
    if again.encode_prompt(question, 2) != processor.encode_prompt(question, 2):
        raise RuntimeError("The saved tokenizer makes other tokens than that of the base.")


def _without_places(contract: Contract) -> Contract:
    """Return the contract with names instead of paths, which mean nothing elsewhere."""

    def name(place: str) -> str:
        return Path(place).name if Path(place).is_absolute() else place

    return replace(contract, base=name(contract.base), vision_tower=name(contract.vision_tower))


def _push(settings: ExportSettings) -> None:
    """Upload the folder to a private repository, less the stamp, which names places on this machine."""
    repo, api = settings.push_to_hub, HfApi()
    try:
        api.create_repo(repo, private=True, exist_ok=True)
        done = api.upload_folder(
            repo_id=repo,
            folder_path=settings.out,
            ignore_patterns=[_STAMP],
            commit_message="eegvlm export",
        )
    except _HUB_ERRORS as error:
        raise EegToolError(
            f"The merged model is whole in {settings.out}, but was not uploaded: {brief(error)}.",
            f"Try again with `hf upload {repo} {settings.out} --exclude {_STAMP}`.",
        ) from error
    console.print(f"Uploaded to [bold]{escape(str(done))}[/]; a new repository is private.")
