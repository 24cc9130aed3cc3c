from __future__ import annotations

from dataclasses import MISSING, Field, FrozenInstanceError, asdict, fields
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
from typer.models import ArgumentInfo, OptionInfo

from eegtool.core.options import annotations_of, settings_from
from eegtool.core.workspace import jsonable, read_json, write_json
from eegtool.evaluate.options import EvaluateSettings
from eegtool.finetune.options import ExportSettings
from eegtool.stage.options import StageSettings

CLASSES = [
    value
    for room in ("", "prepare.", "extract.", "finetune.", "evaluate.", "report.", "stage.")
    for name, value in vars(import_module(f"eegtool.{room}options")).items()
    if name.endswith("Settings") and name[0] != "_"
]
ARGUMENTS = {"recordings", "files", "image", "question", "answers"}
REQUIRED = ARGUMENTS - {"question", "answers"} | {"model_name_or_path", "model_path", "out"}
GATHERED = {"further"}  # out of the rest of the command line: no option
FIELDS = [(cls, field) for cls in CLASSES for field in fields(cls) if field.name not in GATHERED]


def is_required(cls: type, field: Field[Any]) -> bool:
    """Say whether there is no default to fall back on (`out` has one in some commands)."""
    by_name = field.name in REQUIRED
    return by_name and (field.name != "out" or cls is ExportSettings)


def annotation_of(cls: type, field: Field[Any]) -> tuple[Any, ...]:
    return get_args(annotations_of(cls)[field.name])


def test_there_is_one_class_per_command() -> None:
    names = {cls.__name__.removesuffix("Settings").lower() for cls in CLASSES}
    assert names == {
        *("prepare", "extract", "finetune", "evaluate", "report"),
        *("export", "inspect", "ask", "demo", "stage", "doctor"),
    }


@pytest.mark.parametrize("cls", CLASSES, ids=lambda c: c.__name__)
def test_settings_are_frozen_and_explained(cls: type) -> None:
    values = {f.name: None for f in fields(cls) if f.name in REQUIRED}
    instance = cls(**values)
    with pytest.raises(FrozenInstanceError):
        setattr(instance, fields(cls)[0].name, "other")
    assert not hasattr(instance, "__dict__")
    assert cls.__doc__ is not None
    assert cls.__doc__.endswith(".")
    assert len(cls.__doc__) <= 90  # one line in the list of commands


@pytest.mark.parametrize(
    ("cls", "field"), FIELDS, ids=[f"{c.__name__}.{f.name}" for c, f in FIELDS]
)
def test_every_field_is_an_option_with_help(cls: type, field: Field[Any]) -> None:
    _, option = annotation_of(cls, field)
    required = field.default is MISSING and field.default_factory is MISSING
    assert required == is_required(cls, field)
    assert isinstance(option, ArgumentInfo if field.name in ARGUMENTS else OptionInfo)
    assert option.help is not None
    assert option.help[0].isupper()
    assert option.help.endswith(".")
    if field.default in (None, "") or field.name == "num_gpus":
        assert isinstance(option.show_default, str)  # "default: None" would tell nothing


@pytest.mark.parametrize(
    ("cls", "field"), FIELDS, ids=[f"{c.__name__}.{f.name}" for c, f in FIELDS]
)
def test_defaults_obey_their_own_limits(cls: type, field: Field[Any]) -> None:
    kind, option = annotation_of(cls, field)
    if callable(field.default_factory):
        assert isinstance(field.default_factory(), get_origin(kind) or kind)
    elif field.default is MISSING:
        assert is_required(cls, field)
    elif get_origin(kind) is Literal:
        assert field.default in get_args(kind)
    elif isinstance(field.default, int | float) and option.min is not None:
        assert option.min <= field.default
        assert option.max is None or field.default <= option.max
    else:
        assert isinstance(field.default, kind)


@pytest.mark.parametrize(
    "given",
    [
        EvaluateSettings(Path("m"), model_base="tiny", image_folder=Path("a b"), temperature=0.25),
        StageSettings([Path("a b"), Path("c")], Path("m"), channel=["C4-M1"], vision_module=None),
    ],
)
def test_settings_reach_other_processes_as_they_are(given: Any, tmp_path: Path) -> None:
    path = tmp_path / "settings.json"
    write_json(path, jsonable(asdict(given)))
    assert settings_from(type(given), read_json(path)) == given
