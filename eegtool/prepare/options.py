"""Options of prepare and inspect."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Final, Literal

from typer import Argument, Option

from eegtool.core.options import RUNNING, SIGNAL, Json, Seed, Workspace

COHORT: Final = "Cohort"
SPLIT: Final = "Split"
PICTURE: Final = "Picture and question"
EEG_CHANNEL: Final = "EEG Fpz-Cz"
"""That of the recipe, in Sleep-EDF."""
Channels = Annotated[
    list[str],
    Option(
        help="EEG channel to draw, or a derivation such as 'C4 - (M1+M2)/2'; more than one are stacked. "
        "Others with their kind: 'eog:E1-M2', 'emg:chin'.",
        rich_help_panel=SIGNAL,
    ),
]
SubjectPattern = Annotated[
    str,
    Option(
        help="Regular expression that finds the subject in a name (cohort 'generic').",
        show_default="by the cohort",
        rich_help_panel=COHORT,
    ),
]
StageCodes = Annotated[
    str,
    Option(
        help="What the entries of scorings mean, such as 0=W,1=N1,2=N2,3=N3,4=REM.",
        show_default="judged",
        rich_help_panel=COHORT,
    ),
]
ScoringColumn = Annotated[
    str,
    Option(
        help="Column of stages in tables that have several.",
        show_default="by its name",
        rich_help_panel=COHORT,
    ),
]
Scorer = Annotated[
    str,
    Option(
        help="Of several scorers: part of the name of one's file or column, or 'consensus' (the majority).",
        show_default="the only one",
        rich_help_panel=COHORT,
    ),
]
ScoringEpoch = Annotated[
    float,
    Option(
        min=0.0,
        help="Seconds per scored epoch, where not 30: a 30-s epoch gets the stage that fills most of it, a tie none.",
        show_default="that of the cohort, or 30",
        rich_help_panel=COHORT,
    ),
]
WakeMargin = Annotated[
    float,
    Option(
        min=0.0,
        help="Minutes of wake kept before the first and after the last epoch of sleep.",
        rich_help_panel=SIGNAL,
    ),
]
Strict = Annotated[
    bool,
    Option(
        "--strict",
        help="Refuse recordings that are shorter or longer than they say.",
        rich_help_panel=SIGNAL,
    ),
]


@dataclass(frozen=True, slots=True)
class PrepareSettings:
    """Turn raw recordings into pictures, questions and a table of epochs."""

    recordings: Annotated[
        list[Path],
        Argument(help="Recordings, or folders of recordings and hypnograms.", metavar="PATH"),
    ]
    workspace: Workspace = Path("sleep_data")
    cohort: Annotated[
        str,
        Option(
            help="How files pair up: 'auto', 'generic', or a data set such as 'sleep-edf', 'mass', 'hmc' (see docs/your_data.md).",
            rich_help_panel=COHORT,
        ),
    ] = "auto"
    subject_pattern: SubjectPattern = ""
    stage_codes: StageCodes = ""
    scoring_column: ScoringColumn = ""
    scorer: Scorer = ""
    scoring_epoch: ScoringEpoch = 0.0
    download: Annotated[
        str,
        Option(
            help="Fetch a public cohort into PATH first: 'sleep-edf'.",
            show_default="no",
            rich_help_panel=COHORT,
        ),
    ] = ""
    subjects: Annotated[
        str,
        Option(help="Subjects to fetch, such as 0-4,7.", rich_help_panel=COHORT),
    ] = "0-4"
    channel: Channels = field(default_factory=lambda: [EEG_CHANNEL])
    montage: Annotated[
        str,
        Option(
            help="Channels by kind: 'eeg' (those named), 'psg' (also eyes and chin, where they are there), "
            "'aasm' (F4, C4, O2, eyes, chin), or a YAML file.",
            rich_help_panel=SIGNAL,
        ),
    ] = "eeg"
    low_hz: Annotated[
        float,
        Option(
            min=0.0, help="Lower edge of the band-pass in Hz; 0 for none.", rich_help_panel=SIGNAL
        ),
    ] = 0.3
    high_hz: Annotated[
        float, Option(min=1.0, help="Upper edge of the band-pass in Hz.", rich_help_panel=SIGNAL)
    ] = 35.0
    notch_hz: Annotated[
        float,
        Option(
            min=0.0,
            help="Take out the mains, 50 or 60 Hz.",
            show_default="no",
            rich_help_panel=SIGNAL,
        ),
    ] = 0.0
    resample_hz: Annotated[
        float,
        Option(min=0.0, help="Resample to this rate.", show_default="no", rich_help_panel=SIGNAL),
    ] = 0.0
    wake_margin: WakeMargin = 30.0
    strict: Strict = False
    eval_subjects: Annotated[
        str,
        Option(
            help="Subjects to evaluate on, such as SC400,SC401.",
            show_default="drawn",
            rich_help_panel=SPLIT,
        ),
    ] = ""
    eval_fraction: Annotated[
        float,
        Option(
            min=0.0,
            max=1.0,
            help="Share of subjects drawn for evaluation.",
            rich_help_panel=SPLIT,
        ),
    ] = 0.25
    folds: Annotated[
        int,
        Option(
            min=0,
            help="Divide the subjects into so many folds.",
            show_default="none",
            rich_help_panel=SPLIT,
        ),
    ] = 0
    fold: Annotated[
        int, Option(min=0, help="Fold to evaluate on, from 0.", rich_help_panel=SPLIT)
    ] = 0
    split_from: Annotated[
        Path | None,
        Option(
            help="Take the split from the split.json of another workspace.",
            show_default="none",
            rich_help_panel=SPLIT,
        ),
    ] = None
    protocol: Annotated[
        str,
        Option(
            help="Take a published split: 'sleep-edf-20', 'sleep-edf-78' (with --fold), 'kemp2000', 'sleepvlm-mass'.",
            show_default="none",
            rich_help_panel=SPLIT,
        ),
    ] = ""
    protocol_partial: Annotated[
        bool,
        Option(
            "--protocol-partial",
            help="Continue although subjects or nights of the protocol are not here; the results say so.",
            rich_help_panel=SPLIT,
        ),
    ] = False
    balance: Annotated[
        str,
        Option(help="Stages of the fine-tune side: 'none', 'undersample'.", rich_help_panel=SPLIT),
    ] = "none"
    style: Annotated[
        str,
        Option(
            help="Picture: 'waveform', 'wrapped', 'spectrogram', 'hybrid'.",
            rich_help_panel=PICTURE,
        ),
    ] = "spectrogram"
    size: Annotated[
        int,
        Option(
            min=32,
            max=2048,
            help="Side in pixels; best that of the vision tower.",
            rich_help_panel=PICTURE,
        ),
    ] = 336
    amplitude_uv: Annotated[
        float,
        Option(
            "--amplitude",
            min=1.0,
            help="Curves: µV from their middle line to their edge.",
            rich_help_panel=PICTURE,
        ),
    ] = 100.0
    marks: Annotated[
        bool,
        Option("--marks", help="Draw scale marks (s, µV, Hz).", rich_help_panel=PICTURE),
    ] = False
    context_epochs: Annotated[
        int,
        Option(
            min=0,
            max=3,
            help="Also draw so many epochs before and after each one, in dimmed colours.",
            rich_help_panel=PICTURE,
        ),
    ] = 0
    pictures: Annotated[
        Literal["png", "none"],
        Option(
            help="A PNG file per epoch, or none: later steps then draw from the stored signals.",
            rich_help_panel=PICTURE,
        ),
    ] = "png"
    template: Annotated[
        str, Option(help="Question: 'stage', 'options', 'cot'.", rich_help_panel=PICTURE)
    ] = "stage"
    rationale: Annotated[
        str,
        Option(
            help="Reasons in the answers: 'none', 'template', 'measured'.",
            rich_help_panel=PICTURE,
        ),
    ] = "none"
    jobs: Annotated[
        int, Option(min=1, help="Recordings worked on at the same time.", rich_help_panel=RUNNING)
    ] = 1
    scheduler: Annotated[
        str,
        Option(
            help="Work on a Dask cluster, such as tcp://head:8786.",
            show_default="no",
            rich_help_panel=RUNNING,
        ),
    ] = ""
    limit: Annotated[
        int,
        Option(
            min=0,
            help="Take only so many recordings, of as many subjects as can be.",
            show_default="all",
            rich_help_panel=RUNNING,
        ),
    ] = 0
    dry_run: Annotated[
        bool,
        Option(
            "--dry-run",
            help="Say what would be made (epochs, bytes, time); write nothing.",
            rich_help_panel=RUNNING,
        ),
    ] = False
    json: Json = False
    seed: Seed = 42


@dataclass(frozen=True, slots=True)
class InspectSettings:
    """Show what is in recordings and hypnograms, and what prepare would make of them."""

    files: Annotated[
        list[Path], Argument(help="Recordings, hypnograms, or folders of them.", metavar="FILE")
    ]
    cohort: Annotated[
        str,
        Option(
            help="How files pair up: 'auto', 'generic', or a data set such as 'sleep-edf', 'mass', 'hmc' (see docs/your_data.md)."
        ),
    ] = "auto"
    subject_pattern: SubjectPattern = ""
    stage_codes: StageCodes = ""
    scoring_column: ScoringColumn = ""
    scorer: Scorer = ""
    scoring_epoch: ScoringEpoch = 0.0
    channel: Channels = field(default_factory=lambda: [EEG_CHANNEL])
    wake_margin: WakeMargin = 30.0
    strict: Strict = False
    json: Json = False
