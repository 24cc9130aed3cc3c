"""transformers' LLaVA with high-level features: the fusion, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Final

import torch
from torch.nn import ModuleList
from torch.nn.functional import cross_entropy
from transformers import LlavaConfig, LlavaForConditionalGeneration
from transformers.models.llava.modeling_llava import LlavaCausalLMOutputWithPast

from eegtool.model.processor import IGNORED
from eegtool.model.weights import write_weights


@dataclass(frozen=True, slots=True)
class Fusion:
    """How picture tokens and the high-level feature become the blocks of two ``<image>``.

    Attributes
    ----------
    lengths : callable
        Number of patches → number of tokens of the first and of the second block.
    fuse : callable
        ``P(V)`` ``[B, patches, D]`` and ``P(r)`` ``[B, 1, D]`` → tokens of both blocks ``[B, L, D]``.
    needs_features : bool
        Whether it looks at the high-level feature at all.
    """

    lengths: Callable[[int], tuple[int, int]]
    fuse: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    needs_features: bool = True


FUSIONS: Final[dict[str, Fusion]] = {
    # EEG-VLM (arXiv 2511.19155): the second block is the first one with P(r) added to every patch.
    "add": Fusion(lambda n: (n, n), lambda low, high: torch.cat([low, low + high], dim=1)),
    "token": Fusion(lambda n: (n, 1), lambda low, high: torch.cat([low, high], dim=1)),
    "none": Fusion(lambda n: (n, 0), lambda low, high: low, needs_features=False),
}


def mean_loss(
    logits: torch.Tensor,
    targets: torch.Tensor,
    weights: torch.Tensor | None,
    num_items_in_batch: torch.Tensor | int | None,
) -> torch.Tensor:
    """Return the cross-entropy of the labelled tokens, a scalar, computed in float32.

    Parameters
    ----------
    logits : float [N, vocabulary]
        What is said of the N tokens that are labelled, in their order.
    targets : int64 [B, T]
        Token ids, `IGNORED` where nothing is to be learnt.
    weights : float [B, T] or None
        How much each counts (see `eegtool.finetune.data.label_weights`); None: all alike.
    num_items_in_batch : int or None
        Labelled tokens of the whole step, over all ranks and accumulated batches; None for those of this
        batch.
    """
    trained = targets != IGNORED
    losses = cross_entropy(
        logits.float(), targets[trained], reduction="sum" if weights is None else "none"
    )
    loss = losses if weights is None else (losses * weights[trained]).sum()
    count = trained.sum() if num_items_in_batch is None else num_items_in_batch
    return loss / torch.as_tensor(count, device=loss.device).clamp(min=1)


def patches(config: LlavaConfig) -> int:
    """Return the number of patch tokens of a model's vision tower, class token not counted."""
    vision = config.vision_config
    return int(vision.image_size // vision.patch_size) ** 2


class EEGVLM(LlavaForConditionalGeneration):  # type: ignore[misc]
    """LLaVA-1.5 that sees each epoch twice: as its picture, and as its picture plus a high-level feature.

    Its weights are exactly those of `LlavaForConditionalGeneration`; the one projector P maps both
    the CLIP patch features V and the high-level feature r.
    """

    fusion: str = "add"
    projector: ClassVar[str] = "model.multi_modal_projector"
    """What of it is trained beside LoRA."""
    projector_is_own: ClassVar[bool] = False
    """Whether that is no part of the family's model."""

    def __init__(self, config: LlavaConfig) -> None:
        super().__init__(config)
        self.loss_type = (
            "ForCausalLM"  # transformers goes by the class name, and does not know ours
        )

    @property
    def _read_layer(self) -> int:
        """The layer of the tower whose output is read, from 1; 0 are the embeddings."""
        n_states = self.config.vision_config.num_hidden_layers + 1
        return int(self.config.vision_feature_layer % n_states)

    def drop_unread_layers(self) -> None:
        """Remove what the tower has behind the layer that is read: it costs time and tells nothing.

        Only where the model is asked or an adapter is trained: it cannot be saved as a whole any more.
        """
        for module in self.model.vision_tower.modules():
            if isinstance(module, ModuleList):
                del module[self._read_layer :]

    def save_plain(self, folder: Path) -> None:
        """Write configuration and weights as transformers' own LLaVA has them.

        Raises
        ------
        EegToolError
            If a file does not hold what was written to it.
        """
        self._lengthen_vocabulary()
        self.config.architectures = ["LlavaForConditionalGeneration"]
        self.config.save_pretrained(folder)
        # Not save_pretrained: it imports DeepSpeed, and renames what transformers' own class has.
        write_weights(folder, self.state_dict())

    def _lengthen_vocabulary(self) -> None:
        """Give ``<image>`` a row, where it lies beyond the table: the original LLaVA has none for it.

        Other programs look its token up. New rows are copies of the first one, ``<unk>``, so that no answer
        changes: what is never said does not become likelier than it.
        """
        missing = self.config.image_token_id + 1 - self.config.text_config.vocab_size
        if missing <= 0:
            return
        for module in (self.get_input_embeddings(), self.lm_head):
            rows = module.weight.data
            longer = torch.cat([rows, rows[:1].expand(missing, -1)])
            module.weight = torch.nn.Parameter(longer, requires_grad=False)
        self.config.text_config.vocab_size += missing

    def embed(
        self,
        input_ids: torch.Tensor,
        pixel_values: torch.Tensor,
        high_level_features: torch.Tensor | None,
    ) -> torch.Tensor:
        """Put text, picture and feature together.

        Parameters
        ----------
        input_ids : int64 [B, T]
            Text with one image token for every visual token.
        pixel_values : float [B, 3, S, S]
            One picture per sample.
        high_level_features : float [B, 1, 1024] or None
            One feature per sample; None only for the fusion ``none``.

        Returns
        -------
        float [B, T, D]
            Input embeddings of the language model.

        Raises
        ------
        ValueError
            If the number of image tokens is not the number of visual tokens.
        """
        with torch.no_grad():  # the tower is frozen: no activations are kept for it
            states = self.model.vision_tower(
                pixel_values.to(self.dtype), output_hidden_states=True
            ).hidden_states
        patch_features = states[self._read_layer][:, 1:]  # class token dropped
        low = self.model.multi_modal_projector(patch_features)
        fusion = FUSIONS[self.fusion]
        if fusion.needs_features:
            if high_level_features is None:
                raise ValueError(f"The fusion '{self.fusion}' needs high-level features.")
            high = self.model.multi_modal_projector(high_level_features.to(low.dtype))
        else:
            high = low[:, :0]
        visual = fusion.fuse(low, high)

        is_image = input_ids == self.config.image_token_id
        if not bool((is_image.sum(dim=1) == visual.shape[1]).all()):
            raise ValueError(
                f"{is_image.sum(dim=1).tolist()} image tokens for {visual.shape[1]} visual tokens."
            )
        # The token may lie beyond the embedding table: the original LLaVA has no row for it.
        text = self.get_input_embeddings()(input_ids.masked_fill(is_image, 0))
        return text.masked_scatter(is_image.unsqueeze(-1), visual.to(text.dtype))

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        high_level_features: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        label_weights: torch.Tensor | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
        compute: Callable[[], Any] | None = None,
        **kwargs: Any,
    ) -> Any:
        """Run LLaVA on the embeddings of `embed`; without a picture, exactly as transformers does.

        With `labels` there is a loss and there are no logits: of 1,200 tokens of a sample a handful
        carries a label, and logits of all of them would be the largest tensor of the training.

        With `compute` that is called and nothing else: whatever is wrapped around a model in training
        (autocast, the hooks by which ZeRO-3 gathers weights) is then around another use of its modules.
        """
        if compute is not None:
            return compute()
        if pixel_values is not None and input_ids is not None:
            inputs_embeds = self.embed(input_ids, pixel_values, high_level_features)
            input_ids = None
        if labels is None:
            return super().forward(input_ids=input_ids, inputs_embeds=inputs_embeds, **kwargs)
        outputs = self.model(input_ids=input_ids, inputs_embeds=inputs_embeds, **kwargs)
        states = outputs.last_hidden_state[:, :-1]
        trained = labels[:, 1:] != IGNORED
        # Called even where no token is trained: under ZeRO-3 all ranks must run the same modules.
        logits = self.lm_head(states[trained])
        weights = None if label_weights is None else label_weights[:, 1:]
        loss = mean_loss(logits, labels[:, 1:], weights, num_items_in_batch)
        return LlavaCausalLMOutputWithPast(loss=loss)
