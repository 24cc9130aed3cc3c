"""The Python API: a model loaded once, recordings in files and in memory, staged nights."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import mne
import numpy as np
import pytest

import eegtool
from eegtool.core.errors import EegToolError
from eegtool.core.stages import STAGES
from eegtool.core.workspace import read_json
from eegtool.inference.calibration import Calibration
from eegtool.model import adapters
from eegtool.model.checkpoints import load_base
from eegtool.pictures.layout import EMPTY
from eegtool.recordings.montages import montage_of
from eegtool.stage import step
from eegtool.stage.night import StagedNight
from eegtool.stage.options import StageSettings
from eegtool.stage.stager import Stager
from tests.stage.conftest import PROTOCOL, describe, noise
from tests.stage.test_step import files_of

Write = Callable[..., Path]


@pytest.fixture(scope="session")
def stager(stage_model: Path) -> Stager:
    """Loaded once; staging changes nothing in it."""
    return eegtool.Stager.load(stage_model, device="cpu", dtype="float32")


@pytest.fixture(scope="session")
def recording(simulated: Path) -> Path:
    return simulated / "SC4001E0-PSG.edf"


@pytest.fixture(scope="session")
def night(stager: Stager, recording: Path) -> StagedNight:
    return stager.stage(recording, smooth=True)


def read(recording: Path) -> mne.io.BaseRaw:
    return mne.io.read_raw_edf(recording, preload=True, verbose="ERROR")


@pytest.fixture
def example() -> str:
    """The example of the documents, as it stands there."""
    page = Path(eegtool.__file__).parents[1] / "docs" / "python.md"
    text = page.read_text(encoding="utf-8")
    begin = text.index("```python\nimport eegtool") + len("```python\n")
    return text[begin : text.index("```", begin)]


def test_the_example_of_the_documents_runs(
    example: str,
    stage_model: Path,
    simulated: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lab" / "checkpoints").mkdir(parents=True)
    (tmp_path / "lab" / "checkpoints" / "13b").symlink_to(stage_model)
    (tmp_path / "new").mkdir()
    raw = read(simulated / "SC4001E0-PSG.edf").rename_channels({"EEG Fpz-Cz": "C4-M1"})
    raw = mne.concatenate_raws([raw] + [raw.copy() for _ in range(12)])
    raw.set_annotations(None)
    mne.export.export_raw(tmp_path / "new" / "night7.edf", raw, verbose="ERROR")
    found: dict[str, Any] = {}
    exec(compile(example, "python.md", "exec"), found)  # noqa: S102
    night = found["night"]
    assert len(night.stages) == 130
    assert (tmp_path / "staged" / "night7" / "night7_hypnogram.csv").is_file()


def test_what_a_staged_night_gives(night: StagedNight, stager: Stager) -> None:
    assert isinstance(night, eegtool.StagedNight)
    assert len(night.stages) == 10
    assert set(night.stages) <= set(STAGES)
    shares = night.probabilities
    assert list(shares.columns) == list(STAGES)
    assert shares.index.name == "onset_s"
    assert shares.index.tolist() == [30.0 * i for i in range(10)]
    np.testing.assert_allclose(shares.sum(axis=1), 1, atol=1e-5)
    assert [*shares.idxmax(axis=1)] == night.stages
    assert set(night.smoothed_stages) <= set(STAGES)
    hypnogram = night.hypnogram
    assert [str(s).replace("WAKE", "W") for s in hypnogram.hypno] == night.stages
    np.testing.assert_allclose(hypnogram.proba["N2"], shares["N2"], atol=1e-5)
    asleep = sum(stage != "W" for stage in night.stages)
    assert hypnogram.sleep_statistics()["TST"] == asleep / 2
    words = night.explain([3, 1])
    assert list(words) == [3, 1]
    alone = stager.model.reply  # the same model answered
    assert callable(alone)
    assert all(isinstance(text, str) for text in words.values())


def test_stages_are_what_the_calibration_decides_for(
    stager: Stager, recording: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    towards = tuple(60.0 * (stage == "REM") for stage in STAGES)
    own = stager.requirements.adapter_sha256
    fitted = Calibration(
        *(2.0, "score", ("S09",), 9, 1, 1, 1, 1, own),
        decide_for="kappa",
        decision_offsets=towards,
        stages=(0, 0, 9e9, 0, 0),
    )
    monkeypatch.setattr(stager, "calibration", fitted)
    decided = stager.stage(recording, smooth=True)
    assert set(decided.stages) == {"REM"}
    # N2 is what the probabilities make common, so it has to be seen more clearly than the others.
    assert "N2" not in decided.smoothed_stages
    plain = stager.stage(recording, calibrate=False)
    assert plain.stages == [*plain.probabilities.idxmax(axis=1)]
    assert [*decided.probabilities.idxmax(axis=1)] == plain.stages


def test_the_plot_has_hypnogram_and_hypnodensity(night: StagedNight) -> None:
    upper, lower = night.plot().axes
    assert "WAKE" in " ".join(label.get_text() for label in upper.get_yticklabels()).upper()
    assert lower.get_ylim() == (0, 1)
    assert len(lower.collections) == len(STAGES)


def test_a_raw_object_is_staged_like_its_file(
    stager: Stager, night: StagedNight, recording: Path
) -> None:
    of_raw = stager.stage(read(recording), smooth=True)
    assert of_raw.recording == night.recording
    assert of_raw.stages == night.stages
    assert of_raw.smoothed_stages == night.smoothed_stages
    assert of_raw.drawn.start == night.drawn.start
    same = [of_raw.drawn.pictures[i] == png for i, png in night.drawn.pictures.items()]
    assert sum(same) >= 9  # MNE's volts and the file's µV differ in the last bit
    np.testing.assert_allclose(of_raw.probabilities, night.probabilities, atol=1e-3)


def test_what_is_in_memory_counts_and_not_the_file(
    stager: Stager, night: StagedNight, recording: Path
) -> None:
    cropped = stager.stage(read(recording).crop(0, 89.99))
    assert len(cropped.stages) == 3
    np.testing.assert_allclose(cropped.probabilities.iloc[1], night.probabilities.iloc[1], atol=0.1)


def test_it_saves_what_the_command_writes(
    night: StagedNight,
    settings: StageSettings,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    step.run(replace(settings, smooth=True))
    capsys.readouterr()
    saved = night.save(tmp_path / "saved")
    assert capsys.readouterr().out == ""  # the report is not printed into a notebook
    assert saved["staged"] == 10
    by_command, by_hand = files_of(settings.out), files_of(tmp_path / "saved")
    assert by_command.keys() == by_hand.keys()
    assert "SC4001E0/SC4001E0_hypnogram.csv" in by_hand
    differing = [name for name, data in by_command.items() if by_hand[name] != data]
    assert differing == ["SC4001E0/night.json"]  # which says what a run was made from
    pages = [
        out / "SC4001E0" / "report" / "review.html" for out in (settings.out, tmp_path / "saved")
    ]
    pictures = [page.read_text(encoding="utf-8").count("iVBOR") for page in pages]  # PNG in base64
    assert pictures[0] == pictures[1] >= 10
    made = [*settings.out.glob("*/work/**/*.png"), *tmp_path.glob("saved/*/work/**/*.png")]
    assert made == []  # pictures are drawn where they are shown
    # A second night of the same model may lie beside it, another model's may not.
    step.run(replace(settings, out=tmp_path / "saved"))
    with pytest.raises(EegToolError, match="staged otherwise"):
        step.run(replace(settings, out=tmp_path / "saved", mode="both"))


def test_the_base_is_loaded_once_for_all_nights(
    settings: StageSettings, simulated: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where words are wanted."""
    loads: list[Path] = []

    def counted(base: Any, **how: Any) -> Any:
        loads.append(base.folder)
        return load_base(base, **how)

    monkeypatch.setattr(adapters, "load_base", counted)
    step.run(replace(settings, recordings=[simulated], explain="uncertain", explain_count=2))
    assert len(list(settings.out.glob("*/night.json"))) == 3
    assert len(loads) == 1


@pytest.mark.usefixtures("warm")
def test_two_ranks_give_what_one_gives(
    settings: StageSettings, simulated: Path, tmp_path: Path
) -> None:
    both = replace(settings, recordings=[simulated])
    step.run(both)
    ranks = replace(both, out=tmp_path / "ranks", num_gpus=2, batch_size="5", explain="all")
    step.run(ranks)
    for path in settings.out.glob("*/*_hypnogram.csv"):
        one = np.genfromtxt(path, delimiter=",", names=True, dtype=None, encoding="utf-8")
        other = np.genfromtxt(
            ranks.out / path.relative_to(settings.out),
            delimiter=",",
            names=True,
            dtype=None,
            encoding="utf-8",
        )
        assert one["stage"].tolist() == other["stage"].tolist()
        np.testing.assert_allclose(one["prob_N2"], other["prob_N2"], atol=2e-4)
        assert all(other["words"])
    left = [path.name for path in ranks.out.rglob("*.part-*")]
    assert left == []


def test_importing_it_loads_nothing_heavy() -> None:
    code = (
        "import eegtool, sys; dir(eegtool); "
        "print([m for m in ('torch', 'numpy', 'mne', 'pandas') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
    with pytest.raises(AttributeError, match="no attribute 'Stagr'"):
        _ = eegtool.Stagr


# --- bad input ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda raw: raw.rename_channels({"EEG Fpz-Cz": "F1"}), "no channel 'EEG Fpz-Cz'"),
        (lambda raw: raw.resample(50, verbose="ERROR"), "sampled at 50 Hz"),
        (lambda raw: raw.apply_function(lambda x: x * 1e6), "not in volts"),
        (lambda raw: raw.crop(0, 20), "shorter than an epoch"),
        (lambda raw: raw.apply_function(lambda x: x * 0), "flat"),
    ],
)
def test_a_raw_object_that_cannot_be_staged(
    stager: Stager, recording: Path, spoil: Callable[[Any], Any], said: str
) -> None:
    with pytest.raises(eegtool.EegToolError, match=said) as caught:
        stager.stage(spoil(read(recording)))
    assert "Raw object of SC4001E0-PSG.edf" in caught.value.what
    assert caught.value.fix


def test_a_raw_object_without_a_file(stager: Stager) -> None:
    info = mne.create_info(["EEG Fpz-Cz"], 100.0, "eeg")
    night = stager.stage(mne.io.RawArray(noise(3)[None] * 1e-6, info, verbose="ERROR"))
    assert (night.recording, len(night.stages)) == ("raw", 3)
    assert night.drawn.start is None


def test_another_recording_of_the_same_name_is_not_mixed_in(
    stager: Stager, recording: Path, tmp_path: Path
) -> None:
    """Both are called like their file, and only one of them is in the folder."""
    stager.stage(read(recording)).save(tmp_path / "saved")
    before = files_of(tmp_path / "saved")
    cropped = stager.stage(read(recording).crop(30, 149.99))
    with pytest.raises(EegToolError, match="another recording of the name SC4001E0"):
        cropped.save(tmp_path / "saved")
    assert files_of(tmp_path / "saved") == before
    again = stager.stage(read(recording)).save(tmp_path / "saved")
    assert again["staged"] == 10
    assert files_of(tmp_path / "saved") == before
    assert read_json(tmp_path / "saved" / "stage.json")["status"] == "complete"


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"device": "gpu"}, "device 'gpu' is not known"),
        ({"device": "cuda"}, "there is no GPU here"),
        ({"dtype": "fp16"}, "dtype"),
        ({"attention": "fast"}, "--attention"),
    ],
)
def test_how_it_cannot_be_loaded(stage_model: Path, how: dict[str, Any], said: str) -> None:
    with pytest.raises(EegToolError, match=said):
        eegtool.Stager.load(stage_model, **how)


def test_what_cannot_be_asked_for(stager: Stager, recording: Path) -> None:
    with pytest.raises(EegToolError, match="mode"):
        stager.stage(recording, mode="generate")  # type: ignore[arg-type]


def test_epochs_that_cannot_be_explained(stager: Stager, write_edf: Write) -> None:
    signal = noise(4)
    signal[3000:6000] = 17.0
    night = stager.stage(write_edf("n1.edf", [("EEG Fpz-Cz", signal)]))
    assert night.stages[1] is None
    assert night.probabilities.isna().any(axis=1).tolist() == [False, True, False, False]
    assert str(night.hypnogram.hypno.iloc[1]) == "UNS"
    for index, said in ((1, r"holds no EEG \(flat\)"), (4, "has no epoch 4: it has 4")):
        with pytest.raises(EegToolError, match=said):
            night.explain([index])


def test_a_folder_of_several_recordings(stager: Stager, simulated: Path) -> None:
    with pytest.raises(EegToolError, match="holds 3 recordings"):
        stager.stage(simulated)


def test_what_is_not_a_model(tmp_path: Path, stage_model: Path) -> None:
    with pytest.raises(EegToolError, match="not an adapter folder"):
        eegtool.Stager.load(tmp_path)
    with pytest.raises(EegToolError, match="is neither a folder nor a known name"):
        eegtool.Stager.load(stage_model, base=str(tmp_path / "gone"))


def test_a_model_is_shown_the_neighbours_that_it_was_trained_with(
    model: Path, recording: Path
) -> None:
    describe(model, protocol=PROTOCOL | {"context_epochs": 1})
    stager = Stager.load(model, lazily=True)
    drawn = stager.stage(recording).drawn
    left, right = [], []
    for image in drawn.pictures.values():
        picture = np.asarray(image)[8:-8]
        left.append(bool((picture[:, :15] == EMPTY).all()))
        right.append(bool((picture[:, 49:] == EMPTY).all()))
    assert left == [True] + [False] * 9
    assert right == [False] * 9 + [True]


def test_a_model_of_a_montage_stages_a_night_with_eeg_alone(
    model: Path, simulated: Path, tmp_path: Path
) -> None:
    """Its other strips are empty; channels of other names are named by kind."""
    _, specs = montage_of("psg", ["EEG Fpz-Cz"], ["EEG Fpz-Cz"], {})
    typed = [spec.typed for spec in specs]
    strips = {"montage": "psg", "strips": [spec.to_row() for spec in specs]}
    describe(model, protocol=PROTOCOL | strips | {"channel": ", ".join(typed), "size": 128})
    stager = Stager.load(model, lazily=True)
    night = stager.stage(simulated / "SC4012E0-PSG.edf")
    assert len(night.stages) == 10
    assert night.drawn.prepared.channel == "EEG Fpz-Cz, –, –, –"
    assert any("eog:E1-M2 stays empty" in note for note in night.drawn.prepared.notes)
    picture = np.asarray(next(iter(night.drawn.pictures.values())))
    assert (picture[52:78] == EMPTY).all()
    assert not (picture[:48] == EMPTY).all(axis=-1).any()

    named = stager.requirements.recipe(["eeg:EEG Pz-Oz", "emg:EMG2"]).montage
    assert [spec.derivation for spec in named] == ["EEG Pz-Oz", "E1-M2", "E2-M2", "EMG2"]
    assert [spec.optional for spec in named] == [False, True, True, False]
    assert [*stager.requirements.recipe(typed).montage] == [*specs]
    with pytest.raises(EegToolError, match="1 EOG channels were named; the model looks at 2"):
        stager.requirements.recipe(["eog:E1-M2"])
    night.save(tmp_path / "out")
    stamp = read_json(tmp_path / "out" / "SC4012E0" / "work" / "prepare.json")
    assert (stamp["protocol"]["montage"], stamp["protocol"]["size"]) == ("psg", 128)


def test_a_model_of_an_unknown_montage_is_refused(model: Path) -> None:
    describe(model, protocol=PROTOCOL | {"strips": [{"kind": "ecg"}]})
    with pytest.raises(EegToolError, match="does not say in a known form which channels"):
        Stager.load(model, lazily=True)
