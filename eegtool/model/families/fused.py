"""A model of transformers with the fusion at its seam; all else is the family's own code."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Final

import numpy as np
import torch
from torch import nn
from torch.nn.functional import linear, log_softmax
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.cache_utils import Cache, DynamicCache
from transformers.modeling_outputs import CausalLMOutput

from eegtool.model.eegvlm import FUSIONS, mean_loss
from eegtool.model.families.generic import Family
from eegtool.model.processor import IGNORED, pad
from eegtool.model.weights import SHARD

FEATURE_WIDTH: Final = 1024
"""Of a high-level feature."""

PROJECTOR: Final = "feature_projector"
"""Where the projector of the features stands in the tree of modules."""


_SEED: Final = 1024


class FeatureProjector(nn.Sequential):
    """Q: a high-level feature → a vector as wide as the language model's tokens; zero before training."""

    def __init__(self, width: int) -> None:
        super().__init__(nn.Linear(FEATURE_WIDTH, width), nn.GELU(), nn.Linear(width, width))
        self.reset()

    def reset(self) -> None:
        """Start again: with a last layer of zeros, the model is the base model, shown the picture again.

        The first layer starts from numbers of its own, the same on every rank and however weights are sharded.
        """
        numbers = torch.Generator().manual_seed(_SEED)
        weight: Any = self[0].weight
        first = torch.randn(weight.shape, generator=numbers, device="cpu")
        init.copy_(weight, first * FEATURE_WIDTH**-0.5)
        init.zeros_(self[2].weight)
        for layer in (self[0], self[2]):
            init.zeros_(layer.bias)


class FusedModel(PreTrainedModel):  # type: ignore[misc]
    """What `fused_class` puts before a family's own class: features in, and a loss of labelled tokens only.

    The tower runs once for each picture, whatever the number of its blocks, and without gradients: tower
    and connector are frozen. Its tokens are fused by `FUSIONS` and handed to the family's ``forward``.
    """

    family: ClassVar[Family]
    fusion: ClassVar[str]
    projector: ClassVar[str] = PROJECTOR
    """What of it is trained beside LoRA."""
    projector_is_own: ClassVar[bool] = True
    """Whether that is no part of the family's model."""

    accepts_loss_kwargs: ClassVar[bool] = True  # `num_items_in_batch`, for the Trainer

    def __init__(self, config: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(config, *args, **kwargs)
        if FUSIONS[self.fusion].needs_features:
            width = config.get_text_config().hidden_size
            self.feature_projector = FeatureProjector(width)

    def _init_weights(self, module: nn.Module) -> None:
        """Initialise what a checkpoint does not hold; called by transformers, children first."""
        super()._init_weights(module)
        if isinstance(module, FeatureProjector):
            module.reset()

    def save_plain(self, folder: Path) -> None:
        """Write configuration and weights as transformers' own class has them; the projector of the features is left out."""
        projector = self._modules.pop(PROJECTOR, None)
        try:
            self.save_pretrained(folder, max_shard_size=SHARD)
        finally:
            if projector is not None:
                self._modules[PROJECTOR] = projector

    def drop_unread_layers(self) -> None:
        """Keep all: which layers of its tower a family reads, only its own code knows."""

    def run(
        self,
        input_ids: torch.Tensor | None = None,
        high_level_features: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        label_weights: torch.Tensor | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
        compute: Callable[[], Any] | None = None,
        **inputs: Any,
    ) -> Any:
        """Run the family's ``forward`` on the fused tokens.

        Parameters
        ----------
        input_ids : int64 [B, T]
            From `FamilyProcessor`: an image token for every visual token.
        high_level_features : float [B, 1, 1024] or None
            One feature per sample; None only for the fusion ``none``, or without pictures.
        labels : int64 [B, T], optional
            `IGNORED` where nothing is to be learnt. With them there is a loss and there are no logits.
        label_weights, num_items_in_batch : float [B, T], int, optional
            See `eegtool.model.eegvlm.mean_loss`.
        compute : callable, optional
            Called, and nothing else done: see `eegtool.model.eegvlm.EEGVLM.forward`.
        **inputs
            The family's own, of one picture per sample (see `FamilyProcessor.inputs`).
        """
        if compute is not None:
            return compute()
        inputs = self.fuse(input_ids, high_level_features, inputs)
        if labels is None:
            return super().forward(input_ids=input_ids, **inputs)
        targets = labels[:, 1:]
        columns = (targets != IGNORED).any(dim=0).nonzero()[:, 0]
        # Called even where no token is trained: under ZeRO-3 all ranks must run the same modules.
        logits = (
            super()
            .forward(input_ids=input_ids, logits_to_keep=columns, use_cache=False, **inputs)
            .logits
        )
        targets = targets[:, columns]
        weights = None if label_weights is None else label_weights[:, 1:][:, columns]
        logits = logits[targets != IGNORED]
        return CausalLMOutput(loss=mean_loss(logits, targets, weights, num_items_in_batch))

    def generate(
        self,
        inputs: torch.Tensor | None = None,
        *args: Any,
        high_level_features: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        """Generate as transformers does, behind pictures and features."""
        ids = kwargs.get("input_ids", inputs)
        kwargs = self.fuse(ids, high_level_features, kwargs)
        return super().generate(inputs, *args, **kwargs)

    def fuse(
        self,
        input_ids: torch.Tensor | None,
        high_level_features: torch.Tensor | None,
        inputs: dict[str, Any],
    ) -> dict[str, Any]:
        """Return the inputs with fused tokens in the place of pixels; without pixels, as they are.

        Raises
        ------
        ValueError
            If the number of image tokens is not the number of visual tokens, or features are missing.
        """
        if input_ids is None or inputs.get("pixel_values") is None:
            return inputs
        taken = inspect.signature(self.base_model.get_image_features).parameters
        pictures = {k: v for k, v in inputs.items() if k in taken and v is not None}
        others = {k: v for k, v in inputs.items() if k not in pictures}
        n, fusion = len(input_ids), FUSIONS[self.fusion]
        pictures = {
            k: v.to(self.dtype) if v.is_floating_point() else v for k, v in pictures.items()
        }
        with torch.no_grad():
            encoded = self.base_model.get_image_features(**pictures, return_dict=True)
        low = _flat(encoded.pooler_output)
        n_tokens = len(low) // n
        lengths = fusion.lengths(n_tokens)
        found = (input_ids == self.config.image_token_id).sum(dim=1).tolist()
        if len(low) % n or set(found) != {sum(lengths)}:
            raise ValueError(f"{found} image tokens for {len(low)} visual tokens of {n} pictures.")
        low = low.view(n, n_tokens, -1)
        visual = fusion.fuse(low, self._projected(high_level_features, low))
        # A list where the family makes one, for it is joined there; else a tensor.
        listed = isinstance(encoded.pooler_output, list | tuple)
        encoded.pooler_output = list(visual) if listed else visual
        if getattr(encoded, "deepstack_features", None) is not None:
            encoded.deepstack_features = [
                list(fusion.fuse(deep, torch.zeros_like(deep[:, :1])))
                for deep in (_flat(layer).view_as(low) for layer in encoded.deepstack_features)
            ]
        blocks = tuple(length for length in lengths if length)
        others |= self.family.block_inputs(pictures, n_tokens, blocks)
        return others | {"mm_encoder_outputs": {"image": encoded}}

    def _projected(self, features: torch.Tensor | None, low: torch.Tensor) -> torch.Tensor:
        """Return Q(r) of every sample; of width 0 where the fusion looks at no features."""
        if not FUSIONS[self.fusion].needs_features:
            return low[:, :0]
        if features is None:
            raise ValueError(f"The fusion '{self.fusion}' needs high-level features.")
        dtype = next(self.feature_projector.parameters()).dtype
        return self.feature_projector(features.to(dtype)).to(low.dtype)

    @torch.no_grad()  # not inference_mode: weights that ZeRO-3 gathers in it could not be trained any more
    def score(
        self,
        inputs: dict[str, torch.Tensor],
        high_level_features: torch.Tensor | None,
        answers: Sequence[Sequence[Sequence[int]]],
    ) -> np.ndarray:
        """Score the answers of a batch of questions; each prompt is run once.

        Parameters
        ----------
        inputs : dict of str to Tensor
            Of prompts padded on the left, with all that the answers have in common at their beginning
            (see `FamilyProcessor.inputs`).
        high_level_features : float [B, 1, 1024] or None
            One feature per question; None only for the fusion ``none``.
        answers : sequence of sequence of sequence of int
            What is left of every answer to every question: token ids, its end included.

        Returns
        -------
        float64 [B, answers]
            Mean log-likelihood of an answer's tokens; logits and softmax are computed in float32.
        """
        prompts = self.fuse(inputs["input_ids"], high_level_features, dict(inputs))
        mask = prompts["attention_mask"]
        # Of two dimensions or three, with the family's own places for pictures.
        positions = self._prepare_position_ids_for_generation(prompts["input_ids"], prompts)
        n, n_answers = len(answers), len(answers[0])
        rows = [answer for some in answers for answer in some]
        targets = pad(rows, IGNORED, "right").to(mask.device)
        memory = DynamicCache(config=self.config.get_text_config())
        held = {**as_argument(self, memory), "use_cache": True}
        with in_float32(self.get_output_embeddings()):
            first = self(**prompts, position_ids=positions, logits_to_keep=1, **held).logits
            logits = first.repeat_interleave(n_answers, dim=0)
            if (width := targets.shape[1] - 1) > 0:
                memory.batch_repeat_interleave(n_answers)
                read = targets[:, :-1].clamp(min=0)
                steps = torch.arange(1, width + 1, device=mask.device)
                # Answers are padded on the right: what follows an answer, it does not see.
                seen = torch.cat([mask, mask.new_ones(n, width)], dim=1)
                later = self(
                    input_ids=read,
                    attention_mask=seen.repeat_interleave(n_answers, dim=0),
                    position_ids=(positions[..., -1:] + steps).repeat_interleave(n_answers, dim=-2),
                    **held,
                ).logits
                logits = torch.cat([logits, later], dim=1)
        found = log_softmax(logits.float(), dim=-1)
        chosen = found.gather(2, targets.clamp(min=0)[..., None])[..., 0].double()
        counted = targets != IGNORED
        means = (chosen * counted).sum(dim=1) / counted.sum(dim=1)
        return means.view(n, n_answers).cpu().numpy()


@cache
def fused_class(network: type, family: Family, fusion: str) -> Any:
    """Return a family's class with the fusion before it.

    It keeps the name and module of the family's class, by which transformers tells its loss, the names of
    weights in older files and what it writes into a configuration, and the arguments of its ``forward``, by
    which ``generate`` tells what it takes.
    """

    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        return FusedModel.run(self, *args, **kwargs)

    own = inspect.signature(FusedModel.run).parameters
    others = inspect.signature(network.forward).parameters  # type: ignore[attr-defined]
    first = [p for p in own.values() if p.kind is not p.VAR_KEYWORD]
    forward.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        first + [p for name, p in others.items() if name not in own]
    )
    ignored = getattr(network, "_keys_to_ignore_on_load_missing", None) or ()
    body = {
        "family": family,
        "fusion": fusion,
        "forward": forward,
        "_keys_to_ignore_on_load_missing": [*ignored, rf"^{PROJECTOR}\."],
        "__module__": network.__module__,
    }
    return type(network.__name__, (FusedModel, network), body)


def lora_targets(model: Any) -> list[str]:
    """Return the full names of the linear layers of the language model, without its head.

    Tower, connector and the projector of the features have none of them.
    """
    decoder = model.get_decoder()
    prefix = next(name for name, module in model.named_modules() if module is decoder)
    inside = decoder.named_modules(prefix=prefix)
    return [name for name, module in inside if isinstance(module, nn.Linear)]


def outside_decoder(model: Any) -> list[str]:
    """Return the names of the modules beside the language model: they stay out of quantisation."""
    decoder = model.get_decoder()
    names: list[str] = []

    def walk(module: nn.Module, prefix: str) -> None:
        for name, child in module.named_children():
            if any(below is decoder for below in child.modules()):
                if child is not decoder:
                    walk(child, f"{prefix}{name}.")
            else:
                names.append(f"{prefix}{name}")

    walk(model, "")
    return names


def _flat(features: Any) -> torch.Tensor:
    """Join the features of pictures or tiles, a list or a tensor, to ``[tokens, D]``."""
    parts = features if isinstance(features, list | tuple) else [features]
    return torch.cat([part.flatten(0, -2) for part in parts])


def as_argument(model: Any, cache: Cache) -> dict[str, Cache]:
    """Return a cache under the name by which this transformers takes it."""
    # The older name still works but warns; unknown ones are swallowed by its **kwargs.
    known = inspect.signature(model.forward).parameters
    return {"cache" if "cache" in known else "past_key_values": cache}


@contextmanager
def in_float32(head: Any) -> Iterator[None]:
    """Let the head compute in float32: logits in 16 bits are steps of an eighth, too coarse to tell two stages apart.

    It is called as a module even so: under ZeRO-3 its weights are there only then.
    """

    def forward(states: torch.Tensor) -> torch.Tensor:
        with torch.autocast(states.device.type, enabled=False):
            bias = None if head.bias is None else head.bias.float()
            return linear(states.float(), head.weight.float(), bias)

    head.forward = forward
    try:
        yield
    finally:
        del head.forward
