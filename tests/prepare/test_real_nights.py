"""All 14 real scorings, each on a recording of noise as long as the real one, counted a second time with MNE and yasa."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import edfio
import mne
import numpy as np
import pytest
import yasa

from eegtool.core.records import read_epochs
from eegtool.core.stages import STAGES
from eegtool.prepare import step
from eegtool.prepare.options import PrepareSettings

DATA = Path(__file__).parents[1] / "data"
HYPNOGRAMS = sorted((DATA / "sleep_edf_hypnograms").glob("*-Hypnogram.edf"))
MARGIN_MIN = 30

YASA_OF = {
    **{"Sleep stage W": "WAKE", "Sleep stage R": "REM", "Sleep stage 1": "N1"},
    **{"Sleep stage 2": "N2", "Sleep stage 3": "N3", "Sleep stage 4": "N3"},
}


@pytest.fixture(scope="module")
def nights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("nights")
    noise_uv = 30 * np.random.default_rng(0).standard_normal(3000)
    for hypnogram in HYPNOGRAMS:
        (folder / hypnogram.name).write_bytes(hypnogram.read_bytes())
        name = f"{hypnogram.name[:7]}0"
        scoring = edfio.read_edf(hypnogram)
        # The last entry, unscored, reaches beyond the end of the real recording.
        scored = [a for a in scoring.annotations if a.text != "Sleep stage ?"]
        n_epochs = max(int(a.onset + a.duration) for a in scored) // 30
        signal = edfio.EdfSignal(
            np.tile(noise_uv, n_epochs), 100, label="EEG Fpz-Cz", physical_dimension="uV"
        )
        edfio.Edf(
            [signal],
            patient=edfio.Patient(code="SIMULATED"),
            recording=edfio.Recording(startdate=scoring.startdate),
            starttime=scoring.starttime,
            data_record_duration=30,
        ).write(folder / f"{name}-PSG.edf")
    return folder


def independent_stages(psg: Path, hypnogram: Path) -> dict[int, str]:
    """Return the kept epochs by their index: MNE cuts the scoring, yasa says when sleep was."""
    n_epochs = mne.io.read_raw_edf(psg, verbose="ERROR").n_times // 3000
    # A recording of one sample per second: MNE cuts that in no time.
    info = mne.create_info(["EEG"], 1.0, "eeg")
    raw = mne.io.RawArray(np.zeros((1, 30 * n_epochs)), info, verbose="ERROR")
    raw.set_annotations(mne.read_annotations(hypnogram), emit_warning=False)
    number = {text: i for i, text in enumerate(YASA_OF)}
    events, _ = mne.events_from_annotations(raw, number, chunk_duration=30, verbose="ERROR")
    texts = list(YASA_OF)
    stages = {int(sample) // 30: YASA_OF[texts[i]] for sample, _, i in events}
    # Movement and unscored time is no sleep: for its beginning and end it may count as wake.
    filled = [stages.get(i, "WAKE") for i in range(n_epochs)]
    statistics = yasa.Hypnogram(filled, n_stages=5).sleep_statistics()
    first = round(2 * statistics["SOL"])
    stop = first + round(2 * statistics["SPT"])
    kept = range(max(first - 2 * MARGIN_MIN, 0), min(stop + 2 * MARGIN_MIN, n_epochs))
    names = {"WAKE": "W"} | {stage: stage for stage in STAGES}
    return {i: names[stages[i]] for i in kept if i in stages}


def test_epochs_and_stages_are_those_that_mne_and_yasa_count(nights: Path, tmp_path: Path) -> None:
    assert len(HYPNOGRAMS) == 14
    workspace = tmp_path / "ws"
    step.run(PrepareSettings([nights], workspace, style="waveform", size=32, jobs=2))
    found: dict[str, dict[int, str]] = {}
    for epoch in read_epochs(workspace / "epochs.csv"):
        found.setdefault(epoch.recording, {})[epoch.epoch_index] = epoch.stage
        assert epoch.onset_s == 30 * epoch.epoch_index
    expected = {
        f"{hypnogram.name[:7]}0": independent_stages(
            nights / f"{hypnogram.name[:7]}0-PSG.edf", hypnogram
        )
        for hypnogram in HYPNOGRAMS
    }
    assert found == expected
    assert len(found["SC4001E0"]) == 841
    counts = Counter(stage for stages in found.values() for stage in stages.values())
    print(f"{sum(counts.values())} epochs:", *(f"{stage} {counts[stage]}" for stage in STAGES))
