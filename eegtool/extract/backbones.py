"""Backbones of the vision module: what a name after ``--backbone`` stands for.

``resnet18`` and ``convnext_base`` are built in the paper's way (EEG-VLM, arXiv 2511.19155): the features
of the last stage before the classifier, pooled. That is what timm's feature interface gives of any of its
models, so all of them come by the same door.
"""

from __future__ import annotations

import ast
import difflib
import hashlib
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase
from importlib import import_module
from importlib.util import resolve_name
from pathlib import Path
from types import ModuleType
from typing import Any, Final, Protocol, cast

import timm
import torch
from huggingface_hub import constants, get_session, try_to_load_from_cache
from torch import Tensor, nn
from torch.nn.functional import interpolate

from eegtool.core.errors import EegToolError, brief
from eegtool.core.registry import closest, load

OURS: Final = {"vision_mamba": "eegtool.extract.mamba:VisionMamba"}
"""Backbones that timm does not have: the class, which is called with ``size``."""

METHODS: Final = ("pixels", "features", "pool")
_TINY: Final = 64  # px, for a trial where the size of the pictures is not known
_STRIDE: Final = (
    32  # px: the whole stride of most networks, which some need as a divisor of the size
)
_PATIENCE_S: Final = 10.0  # huggingface_hub itself would try for 47 s, and say so 24 times


class Encoder(Protocol):
    """What your own vision module must be: a ``torch.nn.Module`` with these three methods."""

    def pixels(self, pictures: Tensor) -> Tensor:
        """Return what the encoder wants to see for uint8 RGB pictures ``[B, 3, H, W]``."""

    def features(self, pixels: Tensor) -> Tensor:
        """Return intermediate features, in any shape that `pool` understands."""

    def pool(self, features: Tensor) -> Tensor:
        """Return float ``[B, width]``, of any width."""


@dataclass(frozen=True, slots=True)
class BackboneRow:
    """One line of ``--list-backbones``."""

    name: str
    parameters: int
    """Number of weights, without a classifier."""
    width: int
    """Numbers in the feature vector, before it is widened to 1024."""


class TimmEncoder(nn.Module):
    """Any timm model through timm's own feature interface.

    Parameters
    ----------
    name : str
        A name that timm knows, with or without the tag of its weights.
    pretrained : bool
        Whether to start from timm's weights.
    size : int or None
        Side of the pictures in pixels. Where a model takes but one size, it is brought to that of the
        pictures if timm can do so, and else the pictures to its own.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, name: str, *, pretrained: bool, size: int | None) -> None:
        super().__init__()
        model = timm.create_model(name, pretrained=pretrained, num_classes=0)
        self.model = model.to(memory_format=torch.channels_last)  # as the pixels are
        self.side = _fit(self.model, name, size)
        config = timm.data.resolve_model_data_config(self.model)
        for key in ("mean", "std"):
            self.register_buffer(key, torch.tensor(config[key]).view(1, 3, 1, 1), persistent=False)
        tag = self.model.pretrained_cfg.get("tag")
        full_name = ".".join(part for part in (name.partition(".")[0], tag) if part)
        self.origin = f"timm's weights {full_name}" if pretrained else "random weights"

    def pixels(self, pictures: Tensor) -> Tensor:
        """Return normalised float pixels, resized where the model takes but one size."""
        pixels = (pictures.float() / 255).sub_(self.mean).div_(self.std)
        if self.side is not None and pixels.shape[-2:] != (self.side, self.side):
            pixels = interpolate(pixels, (self.side, self.side), mode="bilinear", antialias=True)
        return pixels.contiguous(memory_format=torch.channels_last)

    def features(self, pixels: Tensor) -> Tensor:
        """Return the features before pooling, in the model's own layout."""
        features: Tensor = self.model.forward_features(pixels)
        return features

    def pool(self, features: Tensor) -> Tensor:
        """Return float ``[B, width]``: what the model's classifier would see."""
        pooled: Tensor = self.model.forward_head(features, pre_logits=True)
        return pooled


def create(name: str, *, pretrained: bool, size: int | None = None) -> Encoder:
    """Build an encoder, a torch module without a classifier.

    Parameters
    ----------
    name : str
        A timm model, ``vision_mamba``, or your own as ``package.module:factory``, importable from the
        current folder or ``PYTHONPATH``; ``factory()`` returns an `Encoder`.
    pretrained : bool
        Whether to start from the weights that timm has.
    size : int or None
        Side of the pictures in pixels, if known.

    Raises
    ------
    EegToolError
        If there is no such encoder, it cannot be built, or has no pretrained weights that can be had.
    """
    if pretrained and (":" in name or name in OURS):
        raise EegToolError(
            f"--pretrained: '{name}' has no pretrained weights.",
            "Leave out --pretrained; your own factory may load weights itself.",
        )
    if ":" in name:
        return _from_factory(name)
    if name in OURS:
        encoder: Encoder = load(OURS[name])(size=size)
        return encoder
    _check_timm_name(name)
    if not pretrained:
        return TimmEncoder(name, pretrained=False, size=size)
    _check_weights_can_be_had(name)
    try:
        return TimmEncoder(name, pretrained=True, size=size)
    except (OSError, RuntimeError) as error:
        raise EegToolError(
            f"The pretrained weights of '{name}' cannot be loaded: {brief(error)}.",
            "Run where there is a network, or leave out --pretrained.",
        ) from error


def code_sha256(name: str) -> str:
    """Return a hash of the code of an own encoder; empty for timm's and ours.

    Features that were made by other code are not those of today's, whatever the weights say. Its code
    is the file that was named and all that it imports from its own package or from beside that.

    Raises
    ------
    EegToolError
        If it cannot be imported.
    """
    if ":" not in name:
        return ""
    digest = hashlib.sha256()
    for own, source in sorted(_sources(_imported(name.partition(":")[0])).items()):
        digest.update(f"{own} {hashlib.sha256(source).hexdigest()}\n".encode())
    return digest.hexdigest()


def _sources(module: ModuleType) -> dict[str, bytes]:
    """Return the source of a module, and of each it imports that belongs to the same project, by name."""
    file = Path(getattr(module, "__file__", None) or "")
    if file.suffix != ".py":  # compiled; what it imports cannot be read
        return {module.__name__: file.read_bytes()} if file.is_file() else {}
    place = file.parent if file.name == "__init__.py" else file.with_suffix("")
    root = place.parents[module.__name__.count(".")]
    top = module.__name__.partition(".")[0]
    installed = root.name in ("site-packages", "dist-packages")  # among the packages of others
    found: dict[str, bytes] = {}
    todo = [module.__name__]
    while todo:
        name = todo.pop()
        path = root.joinpath(*name.split("."))
        package = (path / "__init__.py").is_file()
        file = path / "__init__.py" if package else path.with_suffix(".py")
        foreign = not name or (installed and name.partition(".")[0] != top)
        if foreign or name in found or not file.is_file():
            continue
        found[name] = file.read_bytes()
        parent = name.rpartition(".")[0]
        with suppress(SyntaxError, ImportError):  # of a file that nobody has imported yet
            todo += [parent, *_imports(found[name], name if package else parent)]
    return found


def _imports(source: bytes, package: str) -> Iterator[str]:
    """Yield the names of modules that a source imports, and some that are not modules but in them."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = resolve_name("." * node.level + (node.module or ""), package)
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


def feature_width(name: str, encoder: Encoder, size: int | None = None) -> int:
    """Let an encoder see a few pictures of noise and return the width of its feature vector.

    One of your own also sees a single picture, which may be left over for the last batch.

    Raises
    ------
    EegToolError
        If it fails, or gives anything but finite float32 ``[B, width]``.
    """
    side = size or _TINY
    noise = torch.Generator().manual_seed(0)
    pictures = torch.randint(0, 256, (3, 3, side, side), generator=noise, dtype=torch.uint8)
    counts = (2, 3, 1) if ":" in name else (2,)
    width, *_ = [_width(name, encoder, pictures[:n]) for n in counts]
    return width


def _width(name: str, encoder: Encoder, pictures: Tensor) -> int:
    n, side = len(pictures), pictures.shape[-1]
    try:
        # What comes of a seed must not depend on this trial.
        with _evaluating(encoder), torch.random.fork_rng(devices=[]):
            pooled: object = encoder.pool(encoder.features(encoder.pixels(pictures)))
    except Exception as error:  # somebody else's code may raise anything
        raise EegToolError(
            f"--backbone: '{name}' fails on pictures of {side} x {side} px: {_said(error)}.",
            "Take another backbone, or fix your own.",
        ) from error
    if not isinstance(pooled, Tensor):
        gave = type(pooled).__name__
    elif (
        pooled.dtype != torch.float32 or pooled.ndim != 2 or len(pooled) != n or not pooled.numel()
    ):
        gave = f"{str(pooled.dtype).removeprefix('torch.')} {list(pooled.shape)}"
    elif not pooled.isfinite().all():
        gave = "numbers that are not finite"
    else:
        return pooled.shape[1]
    raise EegToolError(
        f"--backbone: '{name}' gives {gave} for {n} picture{'s' * (n > 1)}, not a feature vector of each.",
        "Its method pool must return a finite float32 tensor [B, width].",
    )


def list_backbones(
    pattern: str, advance: Callable[[str], None] = lambda name: None
) -> list[BackboneRow]:
    """Describe all backbones whose name matches a pattern such as ``resnet*``, in natural order.

    They are built on torch's meta device, without memory for their weights; all of timm's take
    minutes all the same.

    Parameters
    ----------
    pattern : str
        As of a shell.
    advance : callable
        Called with each name before it is built.

    Raises
    ------
    EegToolError
        If none matches; it names the closest.
    """
    wanted = pattern.strip().lower() or "*"
    ours = [name for name in OURS if fnmatchcase(name, wanted)]
    names: list[str] = ours + timm.list_models(wanted)
    if not names:
        letters = "".join(c for c in wanted if c not in "*?[]")
        near = difflib.get_close_matches(letters, [*OURS, *timm.list_models()], n=3, cutoff=0.4)
        raise EegToolError(
            f"--list-backbones: no backbone matches '{pattern}'.",
            f"The closest are {', '.join(near)}." if near else "All are listed by '*'.",
        )
    rows = []
    for name in names:
        advance(name)
        rows.append(_row(name))
    return rows


def _row(name: str) -> BackboneRow:
    with torch.device("meta"):
        model = load(OURS[name])() if name in OURS else timm.create_model(name, num_classes=0)
    parameters = sum(p.numel() for p in model.parameters())
    return BackboneRow(name, parameters, getattr(model, "head_hidden_size", model.num_features))


def _check_timm_name(name: str) -> None:
    if not timm.is_model(name):
        raise EegToolError(
            f"--backbone: timm has no model '{name}'.{closest(name, [*OURS, *timm.list_models()])}",
            "Any name of `eegvlm extract --list-backbones 'resnet*'` and the like will do, such as 'resnet18' or "
            "'convnext_base', or your own as 'package.module:factory'.",
        )
    architecture, _, tag = name.partition(".")
    tags = [known.partition(".")[2] for known in timm.list_pretrained(f"{architecture}.*")]
    if tag and tag not in tags:
        raise EegToolError(
            f"--backbone: timm's '{architecture}' has no weights '{tag}'.{closest(tag, tags)}",
            f"Known: {', '.join(tags) or 'none'}.",
        )


def _check_weights_can_be_had(name: str) -> None:
    """Refuse a model without pretrained weights, or whose weights are neither here nor within reach."""
    if not timm.models.is_model_pretrained(name):
        raise EegToolError(
            f"--pretrained: timm has no pretrained weights of '{name}'.", "Leave out --pretrained."
        )
    repository = timm.models.get_pretrained_cfg(name).hf_hub_id
    if not repository:
        return
    files = ("model.safetensors", "pytorch_model.bin")
    if any(isinstance(try_to_load_from_cache(repository, file), str) for file in files):
        return
    try:
        get_session().head(constants.ENDPOINT, timeout=_PATIENCE_S)
    except Exception as error:  # of whichever HTTP library huggingface_hub uses
        raise EegToolError(
            f"The pretrained weights of '{name}' cannot be fetched: {constants.ENDPOINT} cannot be "
            f"reached ({brief(error)}).",
            "Run where there is a network, or leave out --pretrained.",
        ) from error


def _from_factory(name: str) -> Encoder:
    """Import and call ``package.module:factory``; refuse what is no `Encoder`."""
    module_name, _, attribute = name.partition(":")
    module = _imported(module_name)
    file = getattr(module, "__file__", None)
    if not callable(getattr(module, attribute, None)):
        raise EegToolError(
            f"--backbone: '{module_name}'{f' ({file})' if file else ''} has no '{attribute}' that "
            f"can be called.{closest(attribute, vars(module))}",
            "Give it as 'package.module:factory'.",
        )
    try:
        encoder: Any = getattr(module, attribute)()
    except Exception as error:
        raise EegToolError(
            f"--backbone: {name}() fails: {_said(error)}.", "It is called without arguments."
        ) from error
    lacking = [method for method in METHODS if not callable(getattr(encoder, method, None))]
    if lacking or not isinstance(encoder, nn.Module):
        kind = type(encoder).__name__
        what = f"a {kind} without {' and '.join(lacking)}" if lacking else f"the {kind}"
        raise EegToolError(
            f"--backbone: {name}() gives {what}, not a vision module.",
            f"It must be a torch.nn.Module with the methods {', '.join(METHODS)}.",
        )
    return cast(Encoder, encoder)


def _imported(module_name: str) -> ModuleType:
    """Import a module of the user's."""
    here = str(Path.cwd())
    if here not in sys.path:  # a console script has its own folder there
        sys.path.insert(0, here)
    try:
        return import_module(module_name)
    except Exception as error:  # somebody else's code may raise anything
        raise EegToolError(
            f"--backbone: '{module_name}' cannot be imported: {_said(error)}.",
            f"It is looked for in {here}, on PYTHONPATH and among what is installed.",
        ) from error


def _fit(model: Any, name: str, size: int | None) -> int | None:
    """Bring a model and the size of the pictures together.

    Returns
    -------
    int or None
        The side in pixels to which pictures must be resized; None if they can stay as they are.
    """
    own = int(model.pretrained_cfg["input_size"][-1])
    fixed = bool(model.pretrained_cfg.get("fixed_input_size"))
    if size is None:
        return own if fixed else None
    if fixed and not hasattr(model, "set_input_size"):
        return own
    # A patch that sticks out would be cut off, and with it the end of the epoch.
    patches = getattr(getattr(model, "patch_embed", None), "proj", None)
    step = patches.stride[-1] if isinstance(patches, nn.Conv2d) else 1
    sides = dict.fromkeys((_up(size, step), _up(size, _STRIDE)))
    side = next((side for side in sides if _sees(name, side, fixed)), own)
    if fixed and side != own:
        _set_size(model, side)
    return None if side == size else side


def _set_size(model: Any, side: int) -> None:
    with warnings.catch_warnings():
        # It resamples tables of positions in ways that torch calls slow or deprecated.
        warnings.filterwarnings("ignore", category=UserWarning, module=r"timm\.")
        model.set_input_size(img_size=(side, side))


def _sees(name: str, side: int, fixed: bool) -> bool:
    """Say whether a timm model can read pictures of that side, by a trial without memory or arithmetic."""
    try:
        with torch.device("meta"):
            model = timm.create_model(name, num_classes=0).eval()
            if fixed:
                _set_size(model, side)
            with torch.no_grad():
                features = model.forward_features(torch.zeros(2, 3, side, side))
                model.forward_head(features, pre_logits=True)
    except Exception:  # whatever the model asserts
        return False
    return True


def _up(size: int, step: int) -> int:
    """Return the next multiple of `step`."""
    return -(-size // step) * step


@contextmanager
def _evaluating(encoder: Any) -> Iterator[None]:
    """Put a module into evaluation mode without gradients, and every part back as it was."""
    modes = [(part, part.training) for part in encoder.modules()]
    encoder.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for part, training in modes:
            part.training = training


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {brief(error)}"
