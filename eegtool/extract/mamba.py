"""vision_mamba: the patches of a picture, read by Mamba blocks from both ends."""

from __future__ import annotations

from typing import Final

import torch
from timm.layers import build_sincos2d_pos_embed
from torch import Tensor, nn
from torch.nn.functional import pad, silu, softplus
from torch.utils.checkpoint import checkpoint
from transformers import MambaConfig
from transformers.models.mamba.modeling_mamba import MambaMixer

WIDTH: Final = 384
LAYERS: Final = 5
"""A training step of 32 pictures of 64 x 64 px stays under 3 s on one CPU core (about 5 M parameters)."""

STATE_SIZE: Final = 8
LARGEST_PATCH: Final = 16
"""Side of a patch in pixels, that of Vision Mamba (Zhu et al. 2024, arXiv 2401.09417)."""

GRID: Final = 8
"""Small pictures get smaller patches, so that there are at least this many in a row."""


KEPT_STEPS: Final = 64
"""The states of longer sequences are computed again for the gradient: kept, those of 32 pictures of
336 x 336 px, 441 patches each, would take 8 GB."""


class Scan(MambaMixer):  # type: ignore[misc]
    """transformers' Mamba mixer (Gu & Dao 2023, arXiv 2312.00752) whose plain scan is linear in time.

    Parameters, their initialisation and the result are those of `MambaMixer`. Its own scan without CUDA
    kernels picks every step out of one large tensor, and the gradient of such a pick is as large as the
    tensor: training costs the square of the number of patches, 12 times as much for the 64 of a small picture.
    """

    def forward(self, tokens: Tensor) -> Tensor:
        """Return float ``[B, T, D]``, in which step t has seen the float tokens ``[B, T, D]`` up to t."""
        length = tokens.shape[1]
        inner, gate = self.in_proj(tokens).chunk(2, dim=-1)
        inner = silu(self.conv1d(inner.transpose(1, 2))[..., :length].transpose(1, 2))
        sizes = [self.time_step_rank, self.ssm_state_size, self.ssm_state_size]
        step, write, read = self.x_proj(inner).split(sizes, dim=-1)
        # A state is a sum over all earlier steps: in half precision it would lose the early ones.
        step = softplus(self.dt_proj(step).float())
        decay = -torch.exp(self.A_log.float())
        scanned = _scan(decay, step, step * inner.float(), write.float(), read.float())
        scanned = (scanned + self.D * inner) * silu(gate)
        out: Tensor = self.out_proj(scanned.to(tokens.dtype))
        return out


def _scan(decay: Tensor, step: Tensor, stepped: Tensor, write: Tensor, read: Tensor) -> Tensor:
    """Run ``h = exp(step · decay) · h + stepped · write`` and read ``h · read`` at every step.

    Parameters
    ----------
    decay : float32 [E, N]
        Rate of each state, negative.
    step, stepped : float32 [B, T, E]
        Length of each step, and the input times it.
    write, read : float32 [B, T, N]
        What goes into the states and comes out of them.

    Returns
    -------
    float32 [B, T, E]
    """
    state = stepped.new_zeros(())
    outs = []
    parts = (step, stepped, write, read)
    for dt, x, b, c in zip(*(part.unbind(1) for part in parts), strict=True):
        state = torch.exp(dt[..., None] * decay) * state + x[..., None] * b[:, None]
        outs.append((state * c[:, None]).sum(-1))
    return torch.stack(outs, 1)


class TwoWayBlock(nn.Module):
    """A residual block whose tokens are scanned from the first to the last and back."""

    def __init__(self, config: MambaConfig, layer: int) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(config.hidden_size, eps=config.layer_norm_epsilon)
        self.forwards = Scan(config, layer)
        self.backwards = Scan(config, layer)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return float ``[B, T, D]`` for float tokens ``[B, T, D]``."""
        normed = self.norm(tokens)
        there, back = _read(self.forwards, normed), _read(self.backwards, normed.flip(1))
        return tokens + there + back.flip(1)


def _read(scan: Scan, tokens: Tensor) -> Tensor:
    if torch.is_grad_enabled() and tokens.shape[1] > KEPT_STEPS:
        out: Tensor = checkpoint(scan, tokens, use_reentrant=False)
        return out
    return scan(tokens)


class VisionMamba(nn.Module):
    """A selective-state-space encoder of pictures; has the three methods of `backbones.Encoder`.

    Patches are read row by row from the left, which in all styles of picture is the direction of
    time, and back. Positions are fixed waves, so that pictures of any size can be read.

    Parameters
    ----------
    size : int or None
        Side of the pictures in pixels; decides only how large a patch is.
    """

    def __init__(self, size: int | None = None) -> None:
        super().__init__()
        self.patch = min(LARGEST_PATCH, max((size or LARGEST_PATCH * GRID) // GRID, 1))
        # Each direction has half the usual inner width, so that both together have it.
        config = MambaConfig(
            hidden_size=WIDTH, state_size=STATE_SIZE, num_hidden_layers=LAYERS, expand=1
        )
        self.embed = nn.Conv2d(3, WIDTH, self.patch, stride=self.patch)
        self.blocks = nn.ModuleList(TwoWayBlock(config, layer) for layer in range(LAYERS))
        self.norm = nn.RMSNorm(WIDTH, eps=config.layer_norm_epsilon)
        self.num_features = WIDTH

    def pixels(self, pictures: Tensor) -> Tensor:
        """Return float pixels in -1 … 1 for uint8 ``[B, 3, H, W]``, padded with grey to whole patches."""
        pixels = pictures.float() / 127.5 - 1
        height, width = pictures.shape[-2:]
        return pad(pixels, (0, -width % self.patch, 0, -height % self.patch))

    def features(self, pixels: Tensor) -> Tensor:
        """Return one float token per patch, ``[B, rows * columns, 384]``, row by row."""
        grid = self.embed(pixels)
        tokens = grid.flatten(2).transpose(1, 2)
        positions = build_sincos2d_pos_embed(list(grid.shape[-2:]), WIDTH, device=grid.device)
        tokens = tokens + positions
        for block in self.blocks:
            tokens = block(tokens)
        normed: Tensor = self.norm(tokens)
        return normed

    def pool(self, features: Tensor) -> Tensor:
        """Return the mean token, float ``[B, 384]``."""
        return features.mean(1)
