"""Model folders by path, or by the name they have on the Hugging Face hub."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import httpx
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError

from eegtool.core.console import console
from eegtool.core.errors import EegToolError, brief
from eegtool.model.weights import weights_files

_FILES: Final = ("*.json", "*.model", "*.safetensors", "*.bin", "*.jinja", "*.txt")
"""Configurations, tokenizers, weights, chat templates and merges of tokenizers."""
_NAME: Final = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")


def model_folder(name_or_path: str) -> Path | None:
    """Return the folder of a model, fetched if only the hub has it; None if the name fits neither.

    What is whole in the local cache is taken from there, without asking the hub.

    Raises
    ------
    EegToolError
        If the hub has no such model, or cannot be reached.
    """
    path = Path(name_or_path)
    if name_or_path and path.is_dir():
        return path.absolute()
    if not _NAME.fullmatch(name_or_path):
        return None
    try:
        path = Path(snapshot_download(name_or_path, local_files_only=True))
        weights_files(path)
    except (OSError, EegToolError):  # nothing there, or not all of it
        return _fetch(name_or_path)
    return path


def _fetch(name: str) -> Path:
    console.print(f"Fetching {name} from the Hugging Face hub", markup=False)
    try:
        return Path(snapshot_download(name, allow_patterns=list(_FILES)))
    except (OSError, ValueError, HfHubHTTPError, httpx.HTTPError) as error:
        raise EegToolError(
            f"'{name}' is not a folder here, is not whole in the local Hugging Face cache, and cannot be "
            f"fetched: {brief(error)}.",
            "Download it where there is a network, and give its folder.",
        ) from error
