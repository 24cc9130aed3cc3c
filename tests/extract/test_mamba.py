from __future__ import annotations

import logging
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import MambaConfig
from transformers.models.mamba.modeling_mamba import MambaMixer

from eegtool.extract import mamba
from eegtool.extract.mamba import Scan, TwoWayBlock, VisionMamba
from eegtool.extract.module import VisionModule

CONFIG = MambaConfig(hidden_size=12, state_size=4, num_hidden_layers=2, expand=2)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(4)
    torch.set_num_threads(1)


@pytest.fixture
def noise() -> Tensor:
    generator = torch.Generator().manual_seed(2)
    return torch.randint(0, 256, (2, 3, 64, 64), generator=generator, dtype=torch.uint8)


@pytest.fixture(scope="module")
def encoder() -> VisionMamba:
    torch.manual_seed(4)
    return VisionMamba(64).eval()


def test_the_scan_gives_what_transformers_mixer_gives() -> None:
    scan = Scan(CONFIG, 0)
    assert isinstance(scan, MambaMixer)
    runs: list[Callable[[Tensor], Tensor]] = [scan, lambda x: MambaMixer.forward(scan, x)]
    outs, gradients = [], []
    for run in runs:
        tokens = drawn(2, 9, 12).requires_grad_()
        scan.zero_grad()
        outs.append(run(tokens))
        outs[-1].square().sum().backward()
        gradients.append([tokens.grad, *(p.grad for p in scan.parameters())])
    torch.testing.assert_close(*outs, atol=1e-6, rtol=1e-5)
    assert outs[0].abs().max() > 1e-3
    assert len(gradients[0]) == 10
    assert all(g is not None and g.abs().max() > 0 for g in gradients[0])
    torch.testing.assert_close(*gradients, atol=1e-6, rtol=1e-4)


def test_long_sequences_are_computed_again_and_learn_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    block, tokens = TwoWayBlock(CONFIG, 0), drawn(2, 9, 12)
    gradients, kept = [], []
    for longest in (9, 8):
        monkeypatch.setattr(mamba, "KEPT_STEPS", longest)
        block.zero_grad()
        sizes: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t, sizes=sizes: sizes.append(t.numel()) or t,  # type: ignore[misc]
            lambda t: t,
        ):
            out = block(tokens)
        kept.append(sum(sizes))
        out.square().sum().backward()
        gradients.append([p.grad for p in block.parameters()])
    torch.testing.assert_close(*gradients)
    assert kept[1] < 0.1 * kept[0]


def seen_by(block: nn.Module, place: int, length: int) -> list[int]:
    """Return the tokens on which the block's output at `place` depends."""
    tokens = drawn(1, length, 12).requires_grad_()
    block(tokens)[0, place].sum().backward()
    assert tokens.grad is not None
    return [int(i) for i in tokens.grad[0].abs().sum(1).nonzero()]


@pytest.mark.parametrize(
    ("muted", "seen"),
    [
        (None, [0, 1, 2, 3, 4, 5, 6]),
        ("backwards", [0, 1, 2, 3]),
        ("forwards", [3, 4, 5, 6]),
    ],
)
def test_every_layer_is_scanned_both_ways(muted: str | None, seen: list[int]) -> None:
    block = TwoWayBlock(CONFIG, 0)
    if muted:
        nn.init.zeros_(block.get_parameter(f"{muted}.out_proj.weight"))
    assert seen_by(block, 3, 7) == seen


def test_all_blocks_have_two_directions(encoder: VisionMamba) -> None:
    assert len(encoder.blocks) == mamba.LAYERS
    for block in encoder.blocks:
        assert isinstance(block, TwoWayBlock)
        assert not torch.equal(block.forwards.in_proj.weight, block.backwards.in_proj.weight)


@torch.no_grad()
def test_the_order_of_the_patches_matters(
    encoder: VisionMamba, noise: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the positions, too: the scan itself knows what came before what."""
    pixels = encoder.pixels(noise)
    swapped = torch.cat([pixels[..., 32:], pixels[..., :32]], dim=3)  # whole patches of 8 px
    gaps = []
    for positions in (True, False):
        if not positions:
            monkeypatch.setattr(
                mamba, "build_sincos2d_pos_embed", lambda grid, width, **_: torch.zeros(width)
            )
        one, other = (encoder.pool(encoder.features(p)) for p in (pixels, swapped))
        gaps.append(float((one - other).abs().max()))
    assert min(gaps) > 1e-3
    for block in encoder.blocks:  # and without the scans it does not
        monkeypatch.setattr(block, "forward", lambda tokens: tokens)
    one, other = (encoder.pool(encoder.features(p)) for p in (pixels, swapped))
    torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("size", "patch", "tokens"), [(64, 8, 64), (100, 12, 81), (32, 4, 64), (128, 16, 64)]
)
@torch.no_grad()
def test_patches_fit_the_size_of_the_pictures(size: int, patch: int, tokens: int) -> None:
    encoder = VisionMamba(size)
    pixels = encoder.pixels(torch.full((1, 3, size, size), 255, dtype=torch.uint8))
    assert encoder.patch == patch
    assert pixels.shape[-1] % patch == 0
    assert pixels[..., size:, :].eq(0).all()
    assert pixels[..., :size, :size].eq(1).all()
    assert encoder.features(pixels).shape == (1, tokens, mamba.WIDTH)


@torch.no_grad()
def test_half_precision_is_close(encoder: VisionMamba, noise: Tensor) -> None:
    exact = encoder.pool(encoder.features(encoder.pixels(noise)))
    with torch.autocast("cpu", torch.bfloat16):
        close = encoder.pool(encoder.features(encoder.pixels(noise)))
    torch.testing.assert_close(close.float(), exact, atol=0.1, rtol=0.1)
    assert not torch.equal(close.float(), exact)


def test_nothing_is_said(noise: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither about missing CUDA kernels nor anything else."""
    said: list[object] = []
    for name in ("warning", "warning_once", "info", "_log"):
        monkeypatch.setattr(logging.Logger, name, lambda *a, **_: said.append(a[1:]), raising=False)
    monkeypatch.setattr(mamba, "LAYERS", 1)
    module = VisionModule("vision_mamba", size=64)
    module(noise)[1].sum().backward()
    assert said == []


def waves(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Draw pictures of slow (0) and fast (1) waves of the same brightness at random phases."""
    generator = torch.Generator().manual_seed(seed)
    kinds = torch.arange(n) % 2
    time = torch.linspace(0, 2 * torch.pi, 64)
    phase = 2 * torch.pi * torch.rand(n, 1, generator=generator)
    curve = torch.sin(time * torch.where(kinds == 1, 7.0, 2.0)[:, None] + phase)
    pictures = 128 + 60 * curve[:, None, None] + 30 * torch.randn(n, 3, 64, 64, generator=generator)
    return pictures.clamp(0, 255).to(torch.uint8), kinds


def test_it_learns_to_tell_two_patterns_apart() -> None:
    module = VisionModule("vision_mamba")  # patches of 16 px: 16 tokens, for speed
    optimizer = torch.optim.AdamW(module.parameters(), lr=3e-4)
    losses = []
    for step in range(24):
        pictures, kinds = waves(8, seed=step)
        loss = cross_entropy(module(pictures)[1], kinds)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[0] > 1
    assert max(losses[-4:]) < 0.2
    pictures, kinds = waves(32, seed=99)
    with torch.no_grad():
        assert torch.equal(module.eval()(pictures)[1].argmax(1), kinds)
