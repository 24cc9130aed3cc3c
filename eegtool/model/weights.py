"""Files of weights: which a folder has, their tensors without reading them, and what tells them apart."""

from __future__ import annotations

import hashlib
import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, Final

import torch
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from eegtool.core.errors import EegToolError, brief
from eegtool.core.parsing import parse_json
from eegtool.core.workspace import read_json, write_json

SHARD: Final = "4GB"
"""Largest file of weights that is written: the hub wants files below 5 GB."""

_NAMES: Final = ("model.safetensors", "pytorch_model.bin")
_AGAIN: Final = "Download it again: the folder must be whole."

_BLOCK: Final = 4096
_BLOCKS: Final = 256
"""Blocks read of a file of another format than safetensors, evenly spaced."""
_END: Final = 1 << 20
"""Bytes read of the beginning and the end, where the formats keep their tables of contents; that of a
``.bin`` file has a checksum of every tensor."""

_DERIVED: Final = re.compile(r"\.(rotary_emb\.inv_freq|embeddings\.position_ids)$")
"""What older versions of transformers saved along and every version computes by itself."""


def weights_files(folder: Path) -> list[Path]:
    """Return the files of a folder that hold its weights, safetensors before ``.bin``.

    Raises
    ------
    EegToolError
        If there are none, or some that the index names are missing.
    """
    for name in _NAMES:
        if (folder / name).is_file():
            return [folder / name]
        index = folder / f"{name}.index.json"
        if index.is_file():
            return _shards(index)
    raise EegToolError(
        f"The folder {folder} holds no weights: it has no {_NAMES[0]} and no {_NAMES[1]}.", _AGAIN
    )


def _shards(index: Path) -> list[Path]:
    names = read_json(index).get("weight_map")
    if not isinstance(names, dict) or not names:
        raise EegToolError(f"{index} names no weights.", _AGAIN)
    shards = sorted({str(name) for name in names.values()})
    for name in shards:
        if Path(name).name != name:
            raise EegToolError(f"{index} names a file outside its folder: '{name}'.")
    lost = [name for name in shards if not (index.parent / name).is_file()]
    if lost:
        raise EegToolError(
            f"The model in {index.parent} is not whole: {len(lost)} of {len(shards)} weights files "
            f"are missing, '{lost[0]}' first.",
            _AGAIN,
        )
    return [index.parent / name for name in shards]


def open_weights(folder: Path) -> dict[str, torch.Tensor]:
    """Return all tensors of a folder, mapped from its files: read only where they are looked at.

    Raises
    ------
    EegToolError
        If a file is missing or damaged, or holds anything that is not a tensor; pickled code is
        never run.
    """
    weights: dict[str, torch.Tensor] = {}
    for path in weights_files(folder):
        weights |= _open(path)
    return weights


def _open(path: Path) -> dict[str, torch.Tensor]:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        # Files of before PyTorch 1.6 are no archives and cannot be mapped.
        mapped = zipfile.is_zipfile(path)
        if not mapped and _begins_as_archive(path):
            raise EegToolError(f"{path} is cut short.", _AGAIN)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of old ways to pickle
            found: Any = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except (OSError, EOFError, RuntimeError, ValueError, SafetensorError) as error:
        raise EegToolError(f"{path} cannot be read: {brief(error)}.", _AGAIN) from error
    except Exception as error:
        if type(error).__name__ != "UnpicklingError":  # of a module that nobody here may import
            raise
        raise EegToolError(
            f"{path} is damaged, or holds pickled objects that are no weights; nothing in it was run.",
            "Take the model from where it was published, best as safetensors.",
        ) from error
    if not isinstance(found, dict) or not all(isinstance(v, torch.Tensor) for v in found.values()):
        raise EegToolError(f"{path} does not map names to tensors.", _AGAIN)
    return found


def _begins_as_archive(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"PK\x03\x04"


def sampled_sha256(path: Path) -> str:
    """Hash a file of weights by samples: its size, both ends, and blocks in between.

    Of safetensors every tensor is sampled. A file of 10 GB takes a few megabytes of reading; other
    weights of the same shapes are told apart unless they differ in places between the samples only.
    """
    digest = hashlib.sha256()
    size = path.stat().st_size
    digest.update(str(size).encode())
    with path.open("rb") as file:
        for start, length in [(0, _END), *_places(file, size), (max(0, size - _END), _END)]:
            file.seek(start)
            digest.update(file.read(length))
    return digest.hexdigest()


def _places(file: BinaryIO, size: int) -> Iterator[tuple[int, int]]:
    """Return where to read: the middle of every tensor of safetensors, else evenly spaced."""
    ends = _tensor_ends(file) if str(file.name).endswith(".safetensors") else []
    if not ends:
        ends = [(size * i // _BLOCKS, size * (i + 1) // _BLOCKS) for i in range(_BLOCKS)]
    for begin, end in ends:
        start = max(begin, (begin + end - _BLOCK) // 2)
        yield start, min(_BLOCK, end - start)


def _tensor_ends(file: BinaryIO) -> list[tuple[int, int]]:
    """Return begin and end of every tensor of a safetensors file; none if it is not one."""
    try:
        length = int.from_bytes(file.read(8), "little")
        header = parse_json(file.read(length), file.name) if length < 100_000_000 else {}
        offsets = [v["data_offsets"] for k, v in header.items() if k != "__metadata__"]
        return sorted((8 + length + begin, 8 + length + end) for begin, end in offsets)
    except (EegToolError, KeyError, TypeError, AttributeError):
        return []


def renamed(
    weights: Mapping[str, torch.Tensor], names: Mapping[str, str]
) -> dict[str, torch.Tensor]:
    """Return tensors by other names: the first pattern that fits replaces what it fits to."""
    found = {}
    for name, tensor in weights.items():
        if _DERIVED.search(name):
            continue
        fitting = next((p for p in names if re.match(p, name)), None)
        found[re.sub(fitting, names[fitting], name, count=1) if fitting else name] = tensor
    return found


def write_weights(folder: Path, state: Mapping[str, torch.Tensor]) -> None:
    """Write tensors as transformers does, in files of at most `SHARD`, and read them again.

    Raises
    ------
    EegToolError
        If a file does not hold what was written to it.
    """
    state = {name: tensor.contiguous() for name, tensor in state.items()}
    split = split_torch_state_dict_into_shards(state, max_shard_size=SHARD)
    for name, keys in split.filename_to_tensors.items():
        part = {key: state[key] for key in keys}
        (folder / name).write_bytes(save(part, {"format": "pt"}))
        written = load_file(folder / name)
        if not all(torch.equal(tensor, written[key]) for key, tensor in part.items()):
            raise EegToolError(
                f"{name} does not hold what was written to it.", "Check the disk it was written to."
            )
    if split.is_sharded:
        total = sum(tensor.numel() * tensor.itemsize for tensor in state.values())
        index = {"metadata": {"total_size": total}, "weight_map": split.tensor_to_filename}
        write_json(folder / "model.safetensors.index.json", index)
