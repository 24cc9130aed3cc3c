"""Options of prepare and inspect."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Final, Literal

from typer import Argument

from eegtool.core.options import RUNNING, SIGNAL, Json, Panel, Seed, Workspace

COHORT = Panel("Cohort")
SPLIT = Panel("Split")
PICTURE = Panel("Picture and question")

EEG_CHANNEL: Final = "EEG Fpz-Cz"
"""That of the recipe, in Sleep-EDF."""

Channels = Annotated[
    list[str],
    SIGNAL.option(
        "EEG channel to draw, or a derivation such as 'C4 - (M1+M2)/2'; more than one are stacked. "
        "Others with their kind: 'eog:E1-M2', 'emg:chin'."
    ),
]
CohortName = Annotated[
    str,
    COHORT.option(
        "How files pair up: 'auto', 'generic', or a data set such as 'sleep-edf', 'mass', 'hmc' (see docs/your_data.md).",
    ),
]
SubjectPattern = Annotated[
    str,
    COHORT.option(
        "Regular expression that finds the subject in a name (cohort 'generic').",
        shown="by the cohort",
    ),
]
StageCodes = Annotated[
    str,
    COHORT.option(
        "What the entries of scorings mean, such as 0=W,1=N1,2=N2,3=N3,4=REM.", shown="judged"
    ),
]
ScoringColumn = Annotated[
    str, COHORT.option("Column of stages in tables that have several.", shown="by its name")
]
Scorer = Annotated[
    str,
    COHORT.option(
        "Of several scorers: part of the name of one's file or column, or 'consensus' (the majority).",
        shown="the only one",
    ),
]
ScoringEpoch = Annotated[
    float,
    COHORT.option(
        "Seconds per scored epoch, where not 30: a 30-s epoch gets the stage that fills most of it, a tie none.",
        shown="that of the cohort, or 30",
        min=0.0,
    ),
]
WakeMargin = Annotated[
    float,
    SIGNAL.option(
        "Minutes of wake kept before the first and after the last epoch of sleep.", min=0.0
    ),
]
Strict = Annotated[
    bool, SIGNAL.option("Refuse recordings that are shorter or longer than they say.", "--strict")
]


@dataclass(frozen=True, slots=True)
class PrepareSettings:
    """Turn raw recordings into pictures, questions and a table of epochs."""

    recordings: Annotated[
        list[Path],
        Argument(help="Recordings, or folders of recordings and hypnograms.", metavar="PATH"),
    ]
    workspace: Workspace = Path("sleep_data")
    cohort: CohortName = "auto"
    subject_pattern: SubjectPattern = ""
    stage_codes: StageCodes = ""
    scoring_column: ScoringColumn = ""
    scorer: Scorer = ""
    scoring_epoch: ScoringEpoch = 0.0
    download: str = COHORT("", "Fetch a public cohort into PATH first: 'sleep-edf'.", shown="no")
    subjects: str = COHORT("0-4", "Subjects to fetch, such as 0-4,7.")
    channel: Channels = field(default_factory=lambda: [EEG_CHANNEL])
    montage: str = SIGNAL(
        "eeg",
        "Channels by kind: 'eeg' (those named), 'psg' (also eyes and chin, where they are there), "
        "'aasm' (F4, C4, O2, eyes, chin), or a YAML file.",
    )
    low_hz: float = SIGNAL(0.3, "Lower edge of the band-pass in Hz; 0 for none.", min=0.0)
    high_hz: float = SIGNAL(35.0, "Upper edge of the band-pass in Hz.", min=1.0)
    notch_hz: float = SIGNAL(0.0, "Take out the mains, 50 or 60 Hz.", shown="no", min=0.0)
    resample_hz: float = SIGNAL(0.0, "Resample to this rate.", shown="no", min=0.0)
    wake_margin: WakeMargin = 30.0
    strict: Strict = False
    eval_subjects: str = SPLIT("", "Subjects to evaluate on, such as SC400,SC401.", shown="drawn")
    eval_fraction: float = SPLIT(0.25, "Share of subjects drawn for evaluation.", min=0.0, max=1.0)
    folds: int = SPLIT(0, "Divide the subjects into so many folds.", shown="none", min=0)
    fold: int = SPLIT(0, "Fold to evaluate on, from 0.", min=0)
    split_from: Path | None = SPLIT(
        None, "Take the split from the split.json of another workspace.", shown="none"
    )
    protocol: str = SPLIT(
        "",
        "Take a published split: 'sleep-edf-20', 'sleep-edf-78' (with --fold), 'kemp2000', 'sleepvlm-mass'.",
        shown="none",
    )
    protocol_partial: bool = SPLIT(
        False,
        "Continue although subjects or nights of the protocol are not here; the results say so.",
    )
    balance: str = SPLIT("none", "Stages of the fine-tune side: 'none', 'undersample'.")
    style: str = PICTURE("spectrogram", "Picture: 'waveform', 'wrapped', 'spectrogram', 'hybrid'.")
    size: int = PICTURE(336, "Side in pixels; best that of the vision tower.", min=32, max=2048)
    amplitude_uv: float = PICTURE(
        100.0, "Curves: µV from their middle line to their edge.", "--amplitude", min=1.0
    )
    marks: bool = PICTURE(False, "Draw scale marks (s, µV, Hz).")
    context_epochs: int = PICTURE(
        0, "Also draw so many epochs before and after each one, in dimmed colours.", min=0, max=3
    )
    pictures: Literal["png", "none"] = PICTURE(
        "png", "A PNG file per epoch, or none: later steps then draw from the stored signals."
    )
    template: str = PICTURE(
        "stage",
        "Question: 'stage', 'options', 'explain' (stage, then reasons), 'cot' (reasons, then stage).",
    )
    rationale: str = PICTURE("none", "Reasons in the answers: 'none', 'template', 'measured'.")
    jobs: int = RUNNING(1, "Recordings worked on at the same time.", min=1)
    scheduler: str = RUNNING("", "Work on a Dask cluster, such as tcp://head:8786.", shown="no")
    limit: int = RUNNING(
        0, "Take only so many recordings, of as many subjects as can be.", shown="all", min=0
    )
    dry_run: bool = RUNNING(False, "Say what would be made (epochs, bytes, time); write nothing.")
    json: Json = False
    seed: Seed = 42


@dataclass(frozen=True, slots=True)
class InspectSettings:
    """Show what is in recordings and hypnograms, and what prepare would make of them."""

    files: Annotated[
        list[Path], Argument(help="Recordings, hypnograms, or folders of them.", metavar="FILE")
    ]
    cohort: CohortName = "auto"
    subject_pattern: SubjectPattern = ""
    stage_codes: StageCodes = ""
    scoring_column: ScoringColumn = ""
    scorer: Scorer = ""
    scoring_epoch: ScoringEpoch = 0.0
    channel: Channels = field(default_factory=lambda: [EEG_CHANNEL])
    wake_margin: WakeMargin = 30.0
    strict: Strict = False
    json: Json = False
