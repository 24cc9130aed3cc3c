"""The model card of a merged model: what it is, how it was trained, how good it is, under which licence."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml
from huggingface_hub import ModelCardData, metadata_load

from eegtool.core.errors import EegToolError
from eegtool.core.workspace import read_json
from eegtool.model.adapters import Contract
from eegtool.model.checkpoints import KNOWN_BASES

_LICENCE_FILES: Final = ("LICENSE", "LICENSE.txt", "LICENSE.md", "LICENCE", "LICENCE.txt")
_OWN_LICENCE: Final = "apache-2.0"  # of models that eegvlm builds itself
_LICENCE_ID: Final = re.compile(r"[a-z0-9][a-z0-9.+-]*")
HUB_NAME: Final = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
"""What a model is called on the Hugging Face hub."""


@dataclass(frozen=True, slots=True)
class Card:
    """What a card says."""

    name: str
    contract: Contract
    lora: Mapping[str, Any]
    """``adapter_config.json`` of the adapter."""
    licence: str
    """Of the base; empty where not known."""
    dtype: str
    metrics: Mapping[str, Any] | None
    """``metrics.json`` of a report on this model."""

    def text(self) -> str:
        """Return the card as Markdown, with the hub's metadata above it."""
        contract, base = self.contract, Path(self.contract.base).name
        training = {
            "base": f"`{base}`",
            "fusion": f"`{contract.fusion}`",
            "conversation template": f"`{contract.version}`",
            "high-level features": contract.features,
            "weights of their vision module (SHA-256)": contract.features_weights_sha256
            or "not known",
            "LoRA": f"rank {self.lora.get('r')}, alpha {self.lora.get('lora_alpha')}, merged",
            "precision": self.dtype,
        }
        licence = self.licence or "not stated in its folder"
        return f"""---
{self._metadata()}---

# {self.name}

Stages sleep from pictures of 30-s EEG epochs and high-level features of a specialized vision module, after EEG-VLM
([arXiv 2511.19155](https://arxiv.org/abs/2511.19155)). Merged from base and LoRA adapter by `eegvlm export`; it needs no base model.
For research; **not a medical device**.

```bash
eegvlm evaluate --model-path THIS_FOLDER --workspace WORKSPACE
eegvlm ask PICTURE --model-path THIS_FOLDER
```

`eegvlm.json` says what it must be asked with. Transformers loads the weights as a plain {self.contract.family} model, which sees no high-level feature.

## Training

{_table(("what", "value"), training.items())}
## Data protocol

{_table(("what", "value"), self._protocol())}
## Results

{self._results()}
## Licence

The weights derive from `{base}` (licence: {licence}), whose terms bind them, too; those of the recordings it was trained on may add to them.
"""

    def _metadata(self) -> str:
        """Return the YAML that the hub reads."""
        base, licence = self.contract.base, self.licence
        is_known = _LICENCE_ID.fullmatch(licence) is not None
        on_hub = HUB_NAME.fullmatch(base) is not None
        metadata = ModelCardData(
            license=licence if is_known else "other" if licence else None,
            license_name=None if is_known else licence or None,
            base_model=base if on_hub else None,
            base_model_relation="finetune" if on_hub else None,
            library_name="transformers",
            pipeline_tag="image-text-to-text",
            tags=["eeg", "sleep-staging", "polysomnography", self.contract.family, "eegvlm"],
        )
        return f"{metadata.to_yaml()}\n"

    def _protocol(self) -> Iterable[tuple[str, Any]]:
        return self.contract.protocol.items() or [("not known", "")]

    def _results(self) -> str:
        if self.metrics is None:
            return "None given; `eegvlm report` writes them to metrics.json, `eegvlm export --metrics` puts them here.\n"
        metrics, chance = self.metrics, self.metrics["chance"]
        rows = [
            (name, _figure(metrics[key]), _figure(chance[key]))
            for name, key in (
                ("accuracy", "accuracy"),
                ("macro-F1", "macro_f1"),
                ("Cohen's κ", "kappa"),
            )
        ]
        stages = {stage: _figure(score["f1"]) for stage, score in metrics["per_stage"].items()}
        head = (
            f"{metrics['n']:,} scored epochs of {len(metrics['per_subject'])} subjects it was not trained "
            f"on; unreadable answers ({metrics['unreadable']:,}) count as wrong; features: "
            f"{metrics['features'] or 'not known'}. Chance: always '{chance['stage']}'."
        )
        overall = _table(("figure", "model", "chance"), rows)
        return f"{head}\n\n{overall}\n{_table(('stage', 'F1'), stages.items())}"


def licence_of(base: str, folder: Path) -> str:
    """Return the licence of a base model as its folder says it: its card, else its licence file.

    Parameters
    ----------
    base : str
        Its name or path, as trained on.
    folder : Path
        Where it lies.

    Returns
    -------
    str
        The hub's name for it, or the first line of the licence file; empty where neither is there.
    """
    if base in KNOWN_BASES:
        return _OWN_LICENCE
    card = folder / "README.md"
    if card.is_file():
        with suppress(ValueError, yaml.YAMLError):  # nothing that the hub would read
            if named := (metadata_load(card) or {}).get("license"):
                return str(named)
    for path in (folder / name for name in _LICENCE_FILES):
        if path.is_file():
            lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
            return next((line.strip("# \t") for line in lines if line.strip()), "")
    return ""


def read_metrics(path: Path, contract: Contract) -> dict[str, Any]:
    """Read the ``metrics.json`` of a report on this model.

    Raises
    ------
    EegToolError
        If it is none, or was made under another protocol than the model was trained under.
    """
    metrics = read_json(path)
    lacking = [
        key
        for key in ("n", "accuracy", "macro_f1", "kappa", "chance", "per_stage", "per_subject")
        if key not in metrics
    ]
    if lacking:
        raise EegToolError(
            f"{path} is no metrics.json of `eegvlm report`: it has no {lacking[0]}.",
            "Give the file in the folder of the report.",
        )
    model = {"base": contract.base, "fusion": contract.fusion, "version": contract.version}
    wanted, reported = contract.protocol | model, dict(metrics.get("protocol", {}))
    wanted.pop("protocol_differs", None)  # of a published split, which other recordings are not
    for protocol in (wanted, reported):  # of a base only the name: it may lie elsewhere by now
        protocol["base"] = Path(str(protocol.get("base", contract.base))).name
    differing = [
        f"{k} {reported[k]} instead of {v}" for k, v in wanted.items() if reported.get(k, v) != v
    ]
    if differing:
        raise EegToolError(
            f"{path} reports on another model or protocol: {', '.join(differing)}.",
            "Run `eegvlm evaluate` and `eegvlm report` on this model.",
        )
    return metrics


def _table(head: tuple[str, ...], rows: Iterable[tuple[Any, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "".join(f"| {' | '.join(_cell(value) for value in line)} |\n" for line in lines)


def _cell(value: Any) -> str:
    return " ".join(str(value).split()).replace("|", "\\|")


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
