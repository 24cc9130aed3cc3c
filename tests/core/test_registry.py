from __future__ import annotations

import pytest

from eegtool.core.errors import EegToolError
from eegtool.core.registry import check_name, closest, load

STYLES = ("spectrogram", "waveform")


@pytest.mark.parametrize(
    ("name", "known", "hint"),
    [
        ("spectogram", STYLES, " Did you mean 'spectrogram'?"),
        ("WAVEFORM", STYLES, " Did you mean 'waveform'?"),
        ("Fpz-Cz", ("EEG Fpz-Cz", "EOG horizontal"), " Did you mean 'EEG Fpz-Cz'?"),
        ("fpz", ("EEG FPZ", "EEG PZ"), " Did you mean 'EEG FPZ'?"),
        ("zzz", STYLES, ""),
        ("x", (), ""),
    ],
)
def test_closest(name: str, known: tuple[str, ...], hint: str) -> None:
    assert closest(name, known) == hint


def test_known_name_comes_back() -> None:
    assert check_name("style", "waveform", STYLES) == "waveform"


def test_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(EegToolError) as raised:
        check_name("style", "wavform", iter(STYLES))
    assert raised.value.what == "Unknown style 'wavform'."
    assert raised.value.fix == "Known: 'spectrogram', 'waveform'. Did you mean 'waveform'?"


def test_parts_are_imported_on_use() -> None:
    assert load("pathlib:PurePath").__name__ == "PurePath"
    with pytest.raises(ModuleNotFoundError):
        load("no_such_module_here:x")
