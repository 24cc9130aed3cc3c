"""Rebuild eegtool/simulate/calibration: python scripts/make_calibration.py DATA_DIR.

DATA_DIR holds ``sleep_edf_bandpowers/*.npz`` and ``sleep_edf_hypnograms/*-Hypnogram.edf``. The folder's
README.md describes the result.
"""

from __future__ import annotations

import argparse
from datetime import datetime
from pathlib import Path
from typing import Final

import edfio
import numpy as np
from numpy.typing import NDArray

# One night per subject: the first. SC4011E0 breaks off before REM, hence the second night of 01.
NIGHTS: Final = tuple(
    f"SC4{night}E0" for night in ("001", "012", "021", "031", "041", "051", "061")
)
FOLDER: Final = Path(__file__).resolve().parents[1] / "eegtool" / "simulate" / "calibration"


def whole_night_db(data: Path) -> tuple[NDArray[np.float64], list[str], list[str]]:
    """Power of every epoch from the first to the last in dB, (n_epochs, n_channels, n_bands)."""
    with np.load(data, allow_pickle=False) as night:
        known = night["epoch_index"]
        psd_db = 10 * np.log10(night["psd_uV2_per_Hz"].astype(float))
        channels, bands = night["channels"].tolist(), night["bands"].tolist()
    # Epochs without a stage (movement time) were not measured: a straight line in dB across them.
    every = np.arange(known[-1] + 1)
    columns = psd_db.reshape(len(known), -1).T
    filled = np.stack([np.interp(every, known, column) for column in columns], axis=1)
    return filled.reshape(len(every), *psd_db.shape[1:]), channels, bands


def make(name: str, source: Path) -> float:
    """Write one night; return its largest quantisation error in dB."""
    psd_db, channels, bands = whole_night_db(source / "sleep_edf_bandpowers" / f"{name}.npz")
    floor_db = psd_db.min(axis=0)
    step_db = np.ptp(psd_db, axis=0) / 255
    level = np.rint((psd_db - floor_db) / step_db).astype(np.uint8)

    (scoring,) = (source / "sleep_edf_hypnograms").glob(f"{name[:6]}*-Hypnogram.edf")
    hypnogram = edfio.read_edf(scoring)
    runs = hypnogram.annotations
    np.savez_compressed(
        FOLDER / f"{name}.npz",
        level=level,
        floor_db=floor_db.astype(np.float32),
        step_db=step_db.astype(np.float32),
        channels=np.array(channels),
        bands=np.array(bands),
        onset_s=np.array([run.onset for run in runs], dtype=np.int32),
        duration_s=np.array([run.duration for run in runs], dtype=np.int32),
        description=np.array([run.text for run in runs]),
        scorer=np.array(scoring.name[7]),
        start=np.array(datetime.combine(hypnogram.startdate, hypnogram.starttime).isoformat()),
    )
    return float(np.abs(floor_db + step_db * level - psd_db).max())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data_dir", type=Path)
    data_dir = parser.parse_args().data_dir
    for each in NIGHTS:
        error_db = make(each, data_dir)
        size_kb = (FOLDER / f"{each}.npz").stat().st_size / 1000
        print(f"{each}  {size_kb:6.1f} kB  largest error {error_db:.3f} dB")
