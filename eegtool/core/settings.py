"""One frozen dataclass of settings per command: the command line, the stored stamp and the API in one place.

The fields become the options of the command (``eegtool.cli``): the annotation holds type and help
text, the default is the option's default.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeVar, get_args, get_origin, get_type_hints

from typer import Argument, Option

_Settings = TypeVar("_Settings")

COHORT: Final = "Cohort"
SIGNAL: Final = "Signal and epochs"
SPLIT: Final = "Split"
PICTURE: Final = "Picture and question"
MODULE: Final = "Vision module"
FEATURES: Final = "Features"
TRAINING: Final = "Training"
LORA: Final = "LoRA"
VALIDATION: Final = "Validation"
HARDWARE: Final = "Hardware"
RUNNING: Final = "Running"
FILES: Final = "Files"
SAVING: Final = "Saving and logging"
SHARING: Final = "Sharing"
ASKING: Final = "What is asked"
DECODING: Final = "Writing answers"
FIGURES: Final = "Figures"

FeatureSource = Literal["real", "shuffled", "zero"]
AnswerMode = Literal["generate", "score", "both"]
DecideFor = Literal["likelihood", "macro_f1", "kappa"]

Workspace = Annotated[
    Path,
    Option(
        "--workspace",
        "-w",
        help="Folder in which the five commands meet.",
        rich_help_panel=FILES,
    ),
]
EEG_CHANNEL: Final = "EEG Fpz-Cz"
"""That of the recipe, in Sleep-EDF."""

Seed = Annotated[int, Option(min=0, max=2**32 - 1, help="Seed of everything random.")]
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
Json = Annotated[
    bool,
    Option("--json", help="Print one JSON object and nothing else.", rich_help_panel=RUNNING),
]
Features = Annotated[
    FeatureSource,
    Option(
        help="Sanity checks: 'shuffled' gives every epoch another's features, 'zero' gives none."
    ),
]
Further = Annotated[
    dict[str, Any], "Flags of other programs (LLaVA, transformers) by name, as they were typed."
]
"""Not an option: the command line collects it (see `eegtool.core.flags`)."""

TrainingRanks = Annotated[
    int,
    Option(
        min=0,
        help="Ranks on this machine (CPU ranks where there is no GPU).",
        show_default="all GPUs, or 1",
        rich_help_panel=HARDWARE,
    ),
]
LabelCoding = Annotated[
    str,
    Option(
        help="How true stages count where they are numbers: 'nsrr' (4 is N3, 5 is REM), '0-4' or '1-5'.",
        show_default="they are words",
        rich_help_panel=FILES,
    ),
]
ModelBase = Annotated[
    str | None,
    Option(help="Base model.", show_default="the one it was trained on", rich_help_panel=FILES),
]
VisionTower = Annotated[
    str,
    Option(
        help="CLIP's folder or hub name, where the base model comes without (LLaVA's own layout).",
        show_default="the one it was trained with",
        rich_help_panel=FILES,
    ),
]
AskingRanks = Annotated[
    int,
    Option(
        min=0,
        help="Ranks on this machine (CPU ranks where there is no GPU).",
        show_default="all GPUs, or 1",
        rich_help_panel=RUNNING,
    ),
]
Precision = Annotated[
    Literal["auto", "float32", "bfloat16", "float16"],
    Option(help="Precision of the base model.", rich_help_panel=RUNNING),
]
Merge = Annotated[
    bool,
    Option(
        "--merge",
        help="Add LoRA to the base's weights: faster, but rounded to their precision.",
        rich_help_panel=RUNNING,
    ),
]
Attention = Annotated[
    str,
    Option(
        help="Attention: 'auto', 'sdpa', 'flash_attention_2', 'eager'.", rich_help_panel=RUNNING
    ),
]
ModelFolder = Annotated[
    Path, Option(help="Folder that finetune or export wrote.", rich_help_panel=FILES)
]
OwnModule = Annotated[
    str,
    Option(
        help="Your own vision module, 'package.module:factory': its code runs only if you name it.",
        show_default="as the module says",
        rich_help_panel=FILES,
    ),
]
NoCalibration = Annotated[
    bool,
    Option("--no-calibration", help="Leave the model's calibration out.", rich_help_panel=ASKING),
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


@dataclass(frozen=True, slots=True)
class ExtractSettings:
    """Train the specialized vision module and export its high-level features."""

    workspace: Workspace = Path("sleep_data")
    backbone: Annotated[
        str,
        Option(
            help="Encoder: any timm model, 'vision_mamba', or your own as 'package.module:factory'.",
            rich_help_panel=MODULE,
        ),
    ] = "resnet18"
    list_backbones: Annotated[
        str,
        Option(
            help="List the encoders of that name, such as 'resnet*', and do nothing else.",
            show_default="no",
            rich_help_panel=MODULE,
        ),
    ] = ""
    pretrained: Annotated[
        bool,
        Option(
            "--pretrained",
            help="Start from timm's weights (fetched once).",
            rich_help_panel=MODULE,
        ),
    ] = False
    weights: Annotated[
        Path | None,
        Option(
            help="Folder of a trained module to use, without training.",
            show_default="none",
            rich_help_panel=MODULE,
        ),
    ] = None
    folds: Annotated[
        int,
        Option(
            min=0,
            help="Fine-tune side: features by modules that did not see the subject, of so many folds.",
            show_default="none",
            rich_help_panel=FEATURES,
        ),
    ] = 0
    context: Annotated[
        float,
        Option(
            min=0.0,
            max=600.0,
            help="Minutes on either side of an epoch that its feature knows of; 0: its own picture only.",
            rich_help_panel=MODULE,
        ),
    ] = 0.0
    import_features: Annotated[
        Path | None,
        Option(
            help="Take over features (.npy) made elsewhere; needs --ids.",
            show_default="none",
            rich_help_panel=FEATURES,
        ),
    ] = None
    ids: Annotated[
        Path | None,
        Option(
            help="Their sample ids, a row each: .txt, .json, or .csv.",
            show_default="the order of the JSON files",
            rich_help_panel=FEATURES,
        ),
    ] = None
    train_epochs: Annotated[
        int, Option(min=1, help="Passes over the fine-tune side.", rich_help_panel=TRAINING)
    ] = 10
    patience: Annotated[
        int,
        Option(
            min=0,
            help="Stop after so many passes without a better macro-F1; 0 for never.",
            rich_help_panel=TRAINING,
        ),
    ] = 5
    batch_size: Annotated[
        int, Option(min=2, help="Pictures per training step.", rich_help_panel=TRAINING)
    ] = 32
    learning_rate: Annotated[
        float, Option(min=0.0, help="Peak learning rate.", rich_help_panel=TRAINING)
    ] = 1e-3
    weight_decay: Annotated[
        float, Option(min=0.0, help="Weight decay.", rich_help_panel=TRAINING)
    ] = 0.05
    imbalance: Annotated[
        str,
        Option(
            help="Rare stages: 'weights' in the loss, 'sampling', or 'none'.",
            rich_help_panel=TRAINING,
        ),
    ] = "weights"
    decide_for: Annotated[
        DecideFor,
        Option(
            help="What the module's own stages are decided for: the likeliest one, or so that macro-F1 or "
            "Cohen's kappa is highest, by its validation subjects.",
            rich_help_panel=TRAINING,
        ),
    ] = "likelihood"
    augment: Annotated[
        bool,
        Option(
            "--augment/--no-augment",
            help="Vary the stored signals a little: amplitude, time, noise, a lost channel.",
            rich_help_panel=TRAINING,
        ),
    ] = True
    flip: Annotated[
        bool,
        Option("--flip", help="Also mirror in time and amplitude.", rich_help_panel=TRAINING),
    ] = False
    channel_dropout: Annotated[
        float,
        Option(
            min=0.0,
            max=0.9,
            help="How often a montage is EEG alone in training, and how often else each of its channels is "
            "missing, so that the model can do without.",
            rich_help_panel=TRAINING,
        ),
    ] = 0.0
    val_fraction: Annotated[
        float,
        Option(
            min=0.05,
            max=0.9,
            help="Share of the fine-tune subjects held out for validation.",
            rich_help_panel=TRAINING,
        ),
    ] = 0.2
    log: Annotated[str, Option(help="Log to 'csv' or 'tensorboard'.", rich_help_panel=TRAINING)] = (
        "csv"
    )
    num_gpus: TrainingRanks = 0
    workers: Annotated[
        int,
        Option(
            min=0,
            help="Processes (in training) and threads (in export) that decode pictures.",
            rich_help_panel=HARDWARE,
        ),
    ] = 0
    seed: Seed = 42


@dataclass(frozen=True, slots=True)
class FinetuneSettings:
    """Fine-tune the vision-language model with LoRA, under DeepSpeed."""

    model_name_or_path: Annotated[
        str,
        Option(
            help="Base model: a folder, a name on the Hugging Face hub, or 'tiny' (embedded).",
            rich_help_panel=FILES,
        ),
    ]
    vision_tower: Annotated[
        str,
        Option(
            help="CLIP's folder or hub name, where the base model comes without (LLaVA's own layout).",
            show_default="the base model's",
            rich_help_panel=FILES,
        ),
    ] = ""
    workspace: Workspace = Path("sleep_data")
    output_dir: Annotated[
        Path | None,
        Option(
            help="Folder of the adapter.",
            show_default="WORKSPACE/checkpoints/eegvlm",
            rich_help_panel=FILES,
        ),
    ] = None
    data_path: Annotated[
        Path | None,
        Option(
            help="Fine-tuning samples.",
            show_default="WORKSPACE/eeg_ft.json",
            rich_help_panel=FILES,
        ),
    ] = None
    image_folder: Annotated[
        Path | None,
        Option(
            help="Folder of their pictures.",
            show_default="WORKSPACE/eeg_images_ft",
            rich_help_panel=FILES,
        ),
    ] = None
    features_file: Annotated[
        Path | None,
        Option(
            help="Their high-level features.",
            show_default="WORKSPACE/train_high_level_features.npy",
            rich_help_panel=FILES,
        ),
    ] = None
    continue_from: Annotated[
        Path | None,
        Option(
            help="Folder of an adapter of the same base, pictures and LoRA, which is trained further on these "
            "samples: corrected nights, for instance.",
            show_default="from the beginning",
            rich_help_panel=FILES,
        ),
    ] = None
    config: Annotated[
        Path | None,
        Option(
            help="YAML file of any of these settings; the command line wins.",
            show_default="none",
            rich_help_panel=FILES,
        ),
    ] = None
    fusion: Annotated[
        str,
        Option(
            help="How features join: 'add' (the paper's), 'token', 'none'.",
            rich_help_panel=TRAINING,
        ),
    ] = "add"
    features: Features = "real"
    version: Annotated[
        str,
        Option(
            help="Conversation template (LLaVA's name for it): 'v1', 'llava_v1'.",
            rich_help_panel=TRAINING,
        ),
    ] = "v1"
    num_train_epochs: Annotated[
        float, Option(min=0.0, help="Passes over the samples.", rich_help_panel=TRAINING)
    ] = 2.0
    max_steps: Annotated[
        int | None,
        Option(
            min=-1,
            help="Stop after so many steps.",
            show_default="all passes",
            rich_help_panel=TRAINING,
        ),
    ] = None
    per_device_train_batch_size: Annotated[
        int, Option(min=1, help="Samples per step and GPU.", rich_help_panel=TRAINING)
    ] = 16
    gradient_accumulation_steps: Annotated[
        int, Option(min=1, help="Steps gathered into one update.", rich_help_panel=TRAINING)
    ] = 1
    learning_rate: Annotated[
        float, Option(min=0.0, help="Learning rate of LoRA.", rich_help_panel=TRAINING)
    ] = 3e-4
    mm_projector_lr: Annotated[
        float,
        Option(min=0.0, help="Learning rate of the projector.", rich_help_panel=TRAINING),
    ] = 2e-5
    weight_decay: Annotated[
        float, Option(min=0.0, help="Weight decay.", rich_help_panel=TRAINING)
    ] = 0.0
    warmup_ratio: Annotated[
        float,
        Option(
            min=0.0, max=0.99, help="Share of steps with a rising rate.", rich_help_panel=TRAINING
        ),
    ] = 0.03
    lr_scheduler_type: Annotated[
        str, Option(help="Schedule, by transformers' name.", rich_help_panel=TRAINING)
    ] = "cosine"
    model_max_length: Annotated[
        int, Option(min=16, help="Longest sequence in tokens.", rich_help_panel=TRAINING)
    ] = 4096
    group_by_modality_length: Annotated[
        bool,
        Option(
            "--group-by-modality-length",
            help="Put samples of about equal length into a batch.",
            rich_help_panel=TRAINING,
        ),
    ] = False
    lora_r: Annotated[int, Option(min=1, help="Rank of the updates.", rich_help_panel=LORA)] = 128
    lora_alpha: Annotated[
        int, Option(min=1, help="Updates are scaled by alpha / r.", rich_help_panel=LORA)
    ] = 256
    lora_dropout: Annotated[
        float, Option(min=0.0, max=1.0, help="Dropout before the updates.", rich_help_panel=LORA)
    ] = 0.05
    use_dora: Annotated[
        bool,
        Option(
            "--use-dora",
            help="Also train the length of each row of the weights (DoRA).",
            rich_help_panel=LORA,
        ),
    ] = False
    use_rslora: Annotated[
        bool,
        Option(
            "--use-rslora",
            help="Scale updates by alpha / sqrt(r) (rsLoRA).",
            rich_help_panel=LORA,
        ),
    ] = False
    loraplus_lr_ratio: Annotated[
        float,
        Option(
            min=1.0,
            help="Learning rate of the second matrices, in multiples of the first ones' (LoRA+).",
            rich_help_panel=LORA,
        ),
    ] = 1.0
    eval_strategy: Annotated[
        str,
        Option(
            help="Validate while training: 'no', 'steps' (every so many), 'epoch' (after each pass).",
            rich_help_panel=VALIDATION,
        ),
    ] = "no"
    eval_steps: Annotated[
        int, Option(min=1, help="Steps between two validations.", rich_help_panel=VALIDATION)
    ] = 100
    eval_subjects_share: Annotated[
        float,
        Option(
            min=0.0,
            max=1.0,
            help="Share of the fine-tune side's subjects that are held out for it; at least one.",
            rich_help_panel=VALIDATION,
        ),
    ] = 0.1
    eval_limit: Annotated[
        int,
        Option(
            min=0,
            help="Score so many of their epochs, drawn evenly over subjects and stages.",
            show_default="all",
            rich_help_panel=VALIDATION,
        ),
    ] = 0
    load_best_model_at_end: Annotated[
        bool,
        Option(
            "--load-best-model-at-end",
            help="The adapter is the best validated one, not the last one.",
            rich_help_panel=VALIDATION,
        ),
    ] = False
    metric_for_best_model: Annotated[
        str,
        Option(
            help="What is best: 'kappa', 'macro_f1', or 'loss' (negative log-likelihood).",
            rich_help_panel=VALIDATION,
        ),
    ] = "kappa"
    early_stopping_patience: Annotated[
        int,
        Option(
            min=0,
            help="Stop after so many validations without a better one; the best one is taken.",
            show_default="never",
            rich_help_panel=VALIDATION,
        ),
    ] = 0
    calibrate: Annotated[
        bool,
        Option(
            "--calibrate",
            help="In the end, calibrate the adapter on all epochs of the held-out subjects, as "
            "`evaluate --calibrate` does.",
            rich_help_panel=VALIDATION,
        ),
    ] = False
    deepspeed: Annotated[
        str,
        Option(
            help="DeepSpeed settings: 'zero2', 'zero3', 'zero3_offload', a JSON file, or 'none'.",
            rich_help_panel=HARDWARE,
        ),
    ] = "zero2"
    num_gpus: TrainingRanks = 0
    hostfile: Annotated[
        Path | None,
        Option(
            help="Several machines: DeepSpeed's file of 'host slots=GPUS' lines.",
            show_default="this machine",
            rich_help_panel=HARDWARE,
        ),
    ] = None
    bits: Annotated[
        int,
        Option(
            min=4,
            max=16,
            help="Bits per weight: 16, or 4 for a quantised language model.",
            rich_help_panel=HARDWARE,
        ),
    ] = 16
    attention: Annotated[
        str,
        Option(
            help="Attention: 'auto', 'sdpa', 'flash_attention_2', 'eager'.",
            rich_help_panel=HARDWARE,
        ),
    ] = "auto"
    gpu_memory: Annotated[
        float,
        Option(
            min=0.0,
            help="With --dry-run: say what fits a GPU of so many GiB.",
            show_default="no",
            rich_help_panel=HARDWARE,
        ),
    ] = 0.0
    gradient_checkpointing: Annotated[
        bool,
        Option(
            "--gradient-checkpointing",
            help="Need less memory and more time.",
            rich_help_panel=HARDWARE,
        ),
    ] = False
    dataloader_num_workers: Annotated[
        int | None,
        Option(
            min=0,
            help="Threads of each rank that decode pictures.",
            show_default="up to 4 beside a GPU, else 1",
            rich_help_panel=HARDWARE,
        ),
    ] = None
    save_strategy: Annotated[
        str, Option(help="Checkpoints: 'steps', 'epoch', 'no'.", rich_help_panel=SAVING)
    ] = "steps"
    save_steps: Annotated[
        int, Option(min=1, help="Steps between two checkpoints.", rich_help_panel=SAVING)
    ] = 500
    save_total_limit: Annotated[
        int, Option(min=1, help="Checkpoints that are kept.", rich_help_panel=SAVING)
    ] = 1
    logging_steps: Annotated[
        int, Option(min=1, help="Steps between two log rows.", rich_help_panel=SAVING)
    ] = 10
    report_to: Annotated[
        str, Option(help="Log to 'none', 'tensorboard', 'wandb'.", rich_help_panel=SAVING)
    ] = "none"
    resume: Annotated[
        bool,
        Option(
            "--resume",
            help="Continue from the last checkpoint in the output folder.",
            rich_help_panel=RUNNING,
        ),
    ] = False
    stop_patience: Annotated[
        float,
        Option(
            min=0.0,
            help="Seconds to finish a step and save when stopped.",
            rich_help_panel=RUNNING,
        ),
    ] = 60.0
    dry_run: Annotated[
        bool,
        Option(
            "--dry-run",
            help="Check everything; say command, steps, memory and disk; load no weights.",
            rich_help_panel=RUNNING,
        ),
    ] = False
    seed: Seed = 42
    further: Further = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class EvaluateSettings:
    """Ask the fine-tuned model about every epoch of the evaluation side."""

    model_path: ModelFolder
    workspace: Workspace = Path("sleep_data")
    model_base: ModelBase = None
    vision_tower: VisionTower = ""
    question_file: Annotated[
        Path | None,
        Option(help="Questions.", show_default="WORKSPACE/eeg_eval.jsonl", rich_help_panel=FILES),
    ] = None
    image_folder: Annotated[
        Path | None,
        Option(
            help="Folder of their pictures.",
            show_default="WORKSPACE/eeg_images_eval",
            rich_help_panel=FILES,
        ),
    ] = None
    features_file: Annotated[
        Path | None,
        Option(
            help="Their high-level features.",
            show_default="WORKSPACE/eval_high_level_features.npy",
            rich_help_panel=FILES,
        ),
    ] = None
    label_coding: LabelCoding = ""
    answers_file: Annotated[
        Path | None,
        Option(
            help="Where the answers go.",
            show_default="WORKSPACE/answers/eeg_answers.jsonl",
            rich_help_panel=FILES,
        ),
    ] = None
    overwrite: Annotated[
        bool,
        Option("--overwrite", help="Begin the answers file from scratch.", rich_help_panel=FILES),
    ] = False
    mode: Annotated[
        AnswerMode,
        Option(
            help="What is wanted: words, the probability of each stage, or both.",
            rich_help_panel=ASKING,
        ),
    ] = "generate"
    conv_mode: Annotated[
        str,
        Option(
            help="Ask by another conversation template than the trained one: 'v1', 'llava_v1'.",
            show_default="the trained one",
            rich_help_panel=ASKING,
        ),
    ] = ""
    features: Annotated[
        FeatureSource,
        Option(
            help="Sanity checks: 'shuffled' gives every epoch another's features, 'zero' gives none.",
            rich_help_panel=ASKING,
        ),
    ] = "real"
    subjects: Annotated[
        str,
        Option(
            help="Ask only about these subjects, such as SC400,SC401.",
            show_default="all",
            rich_help_panel=ASKING,
        ),
    ] = ""
    limit: Annotated[
        int,
        Option(
            min=0,
            help="Ask only the first so many questions.",
            show_default="all",
            rich_help_panel=ASKING,
        ),
    ] = 0
    calibrate: Annotated[
        bool,
        Option(
            "--calibrate",
            help="Fit a temperature and an offset per stage to these answers; keep them beside the adapter.",
            rich_help_panel=ASKING,
        ),
    ] = False
    decide_for: Annotated[
        DecideFor,
        Option(
            help="With --calibrate: also fit which stage is said, so that macro-F1 or Cohen's kappa is "
            "highest; else it is the likeliest one.",
            rich_help_panel=ASKING,
        ),
    ] = "likelihood"
    no_calibration: Annotated[
        bool,
        Option(
            "--no-calibration",
            help="Leave the adapter's calibration out.",
            rich_help_panel=ASKING,
        ),
    ] = False
    max_new_tokens: Annotated[
        int,
        Option(
            min=0,
            help="Longest answer in tokens.",
            show_default="that of the question template",
            rich_help_panel=DECODING,
        ),
    ] = 0
    temperature: Annotated[
        float,
        Option(
            min=0.0, help="Above 0: draw the words, not the likeliest.", rich_help_panel=DECODING
        ),
    ] = 0.0
    top_p: Annotated[
        float,
        Option(
            min=0.0,
            max=1.0,
            help="Draw from the likeliest words that make up this share.",
            rich_help_panel=DECODING,
        ),
    ] = 1.0
    num_beams: Annotated[
        int, Option(min=1, help="Beams of the search; 1 is greedy.", rich_help_panel=DECODING)
    ] = 1
    seed: Seed = 42
    batch_size: Annotated[
        str,
        Option(
            help="Questions answered at the same time; 'auto' halves it when memory runs out.",
            rich_help_panel=RUNNING,
        ),
    ] = "auto"
    num_gpus: AskingRanks = 0
    num_chunks: Annotated[
        int,
        Option(
            min=1,
            help="Parts of a run that is spread over machines; all write to one --answers-file.",
            rich_help_panel=RUNNING,
        ),
    ] = 1
    chunk_idx: Annotated[
        int, Option(min=0, help="Which of these parts this is, from 0.", rich_help_panel=RUNNING)
    ] = 0
    dtype: Precision = "auto"
    merge: Merge = False
    attention: Attention = "auto"
    deterministic: Annotated[
        bool,
        Option(
            "--deterministic",
            help="Let PyTorch use nothing that varies from run to run.",
            rich_help_panel=RUNNING,
        ),
    ] = False


@dataclass(frozen=True, slots=True)
class AskSettings:
    """Ask the fine-tuned model about one picture, and see how likely each stage is."""

    image: Annotated[Path, Argument(help="Picture of one epoch.", metavar="IMAGE")]
    model_path: ModelFolder
    question: Annotated[
        str,
        Argument(
            help="What to ask.", metavar="QUESTION", show_default="what the model was trained on"
        ),
    ] = ""
    workspace: Annotated[
        Path,
        Option(
            "--workspace",
            "-w",
            help="Where the vision module is, if the model's folder has none.",
            rich_help_panel=FILES,
        ),
    ] = Path("sleep_data")
    features_file: Annotated[
        Path | None,
        Option(
            help="Take the picture's high-level feature from here, by the picture's name.",
            show_default="computed by the vision module",
            rich_help_panel=FILES,
        ),
    ] = None
    backbone: OwnModule = ""
    model_base: ModelBase = None
    vision_tower: VisionTower = ""
    max_new_tokens: Annotated[
        int,
        Option(
            min=0,
            help="Longest answer in tokens.",
            show_default="that of the question template",
            rich_help_panel=ASKING,
        ),
    ] = 0
    no_calibration: NoCalibration = False
    dtype: Precision = "auto"
    merge: Merge = False
    json: Json = False


LightsOff = Annotated[
    str,
    Option(
        help="When the lights went off: seconds from the start, or a time of day (22:45:00). Time in bed begins there.",
        show_default="annotations, else the start",
        rich_help_panel=FIGURES,
    ),
]
LightsOn = Annotated[
    str,
    Option(
        help="When they went on again.",
        show_default="annotations, else the end",
        rich_help_panel=FIGURES,
    ),
]
LightsFiles = Annotated[
    list[Path],
    Option(
        help="Where it stands for each recording: a table (recording, lights_off, lights_on), or recordings with "
        "annotations. Once for each file.",
        show_default="no",
        rich_help_panel=FIGURES,
    ),
]
Full = Annotated[
    bool,
    Option("--full", help="Print all tables, not the summary alone.", rich_help_panel=FIGURES),
]


@dataclass(frozen=True, slots=True)
class ReportSettings:
    """Read the stages out of the answers and write figures, tables, hypnograms and one page."""

    workspace: Workspace = Path("sleep_data")
    answers: Annotated[
        list[Path],
        Argument(
            help="Answers to report on; further files are compared with the first.",
            metavar="[ANSWERS]...",
            show_default="WORKSPACE/answers/eeg_answers.jsonl",
        ),
    ] = field(default_factory=list)
    answers_file: Annotated[
        Path | None,
        Option(
            help="The same as a flag, for one file.",
            show_default="WORKSPACE/answers/eeg_answers.jsonl",
            rich_help_panel=FILES,
        ),
    ] = None
    label_coding: LabelCoding = ""
    out: Annotated[
        Path | None,
        Option(
            help="Folder of the report.", show_default="WORKSPACE/report", rich_help_panel=FILES
        ),
    ] = None
    scored_by: Annotated[
        list[Path],
        Option(
            help="Further scorings of the answered nights: what review.html saved, or any scoring named after "
            "recording and scorer (SC4001E0_anna.csv). Once for each file.",
            show_default="no",
            rich_help_panel=FILES,
        ),
    ] = field(default_factory=list)
    lights_off: LightsOff = ""
    lights_on: LightsOn = ""
    lights: LightsFiles = field(default_factory=list)
    how_read: Annotated[
        Path | None,
        Option(
            help="Also write a CSV file that says how each answer was read: stage, words, rule.",
            show_default="no",
            rich_help_panel=FILES,
        ),
    ] = None
    reader: Annotated[
        Literal["free", "sentence", "label"],
        Option(
            help="What counts as an answer: any clear text, only 'The stage is N2.', only 'N2'.",
            rich_help_panel=FIGURES,
        ),
    ] = "free"
    draws: Annotated[
        int,
        Option(
            min=0,
            help="Bootstrap samples behind the intervals; 0 for no intervals.",
            rich_help_panel=FIGURES,
        ),
    ] = 1000
    hypnograms: Annotated[
        int,
        Option(
            min=-1,
            help="Recordings that are drawn, about half a second each; -1 for all.",
            rich_help_panel=FIGURES,
        ),
    ] = 20
    full: Full = False
    pictures: Annotated[
        Literal["embed", "link", "none"],
        Option(
            help="Pictures of the epochs in review.html: inside it (as many as 24 MB hold, the mistakes first; "
            "the rest linked), only linked, or none.",
            rich_help_panel=FIGURES,
        ),
    ] = "embed"
    seed: Seed = 42


@dataclass(frozen=True, slots=True)
class ExportSettings:
    """Merge adapter and base into one model folder, to serve or to share."""

    model_path: Annotated[
        Path, Option(help="Adapter folder that finetune wrote.", rich_help_panel=FILES)
    ]
    out: Annotated[Path, Option(help="Folder of the merged model.", rich_help_panel=FILES)]
    model_base: ModelBase = None
    vision_tower: VisionTower = ""
    dtype: Annotated[
        Literal["bfloat16", "float16", "float32"], Option(help="Precision of the weights.")
    ] = "bfloat16"
    push_to_hub: Annotated[
        str,
        Option(help="Also upload it as USER/NAME.", show_default="no", rich_help_panel=SHARING),
    ] = ""
    metrics: Annotated[
        Path | None,
        Option(
            help="The metrics.json of report, for the model card.",
            show_default="none",
            rich_help_panel=SHARING,
        ),
    ] = None
    licence: Annotated[
        str,
        Option(
            help="Licence of the base model, for the model card.",
            show_default="as its folder says",
            rich_help_panel=SHARING,
        ),
    ] = ""


@dataclass(frozen=True, slots=True)
class StageSettings:
    """Score new nights: recordings in; hypnograms with certainties and a report out."""

    recordings: Annotated[
        list[Path],
        Argument(
            help="Recordings, or folders of them. Scorings are not looked at.", metavar="PATH"
        ),
    ]
    model_path: ModelFolder
    out: Annotated[
        Path,
        Option(help="Folder of the results: one folder for each night.", rich_help_panel=FILES),
    ] = Path("staged")
    vision_module: Annotated[
        Path | None,
        Option(
            help="Folder of the vision module, if the model's has none.",
            show_default="MODEL_PATH/vision_module",
            rich_help_panel=FILES,
        ),
    ] = None
    backbone: OwnModule = ""
    model_base: ModelBase = None
    vision_tower: VisionTower = ""
    channel: Annotated[
        list[str],
        Option(
            help="Channel of these recordings that stands for the trained one, or a derivation.",
            show_default="the trained one",
            rich_help_panel=SIGNAL,
        ),
    ] = field(default_factory=list)
    strict: Strict = False
    mode: Annotated[
        Literal["score", "both"],
        Option(
            help="The likeliest stage ('score'), or the stage that the model writes ('both').",
            rich_help_panel=ASKING,
        ),
    ] = "score"
    explain: Annotated[
        Literal["none", "uncertain", "all"],
        Option(help="Of which epochs the model's own words are kept.", rich_help_panel=ASKING),
    ] = "none"
    explain_count: Annotated[
        int,
        Option(
            min=1, help="How many are 'uncertain': the least certain ones.", rich_help_panel=ASKING
        ),
    ] = 20
    smooth: Annotated[
        bool,
        Option(
            "--smooth",
            help="Also give the likeliest sequence of stages, apart from the plain result.",
            rich_help_panel=ASKING,
        ),
    ] = False
    no_calibration: NoCalibration = False
    lights_off: LightsOff = ""
    lights_on: LightsOn = ""
    lights: LightsFiles = field(default_factory=list)
    full: Full = False
    jobs: Annotated[
        int, Option(min=1, help="Recordings drawn at the same time.", rich_help_panel=RUNNING)
    ] = 1
    batch_size: Annotated[
        str,
        Option(
            help="Epochs asked about at the same time; 'auto' halves it when memory runs out.",
            rich_help_panel=RUNNING,
        ),
    ] = "auto"
    num_gpus: AskingRanks = 0
    dtype: Precision = "auto"
    merge: Merge = False
    attention: Attention = "auto"
    json: Json = False


@dataclass(frozen=True, slots=True)
class DoctorSettings:
    """Say what is installed, what this machine has, and what works here."""

    workspace: Annotated[
        Path,
        Option("--workspace", "-w", help="Whose disk to look at.", rich_help_panel=FILES),
    ] = Path("sleep_data")
    model: Annotated[
        str,
        Option(
            help="Say instead what this base model or adapter is: its family, image tokens, what is trained.",
            show_default="none",
            rich_help_panel=FILES,
        ),
    ] = ""
    json: Json = False


@dataclass(frozen=True, slots=True)
class DemoSettings:
    """Simulate a few nights and run all five commands on them, offline, in minutes."""

    out: Annotated[
        Path,
        Option(help="Folder of the demo's workspace.", rich_help_panel=FILES),
    ] = Path("demo_data")
    nights_only: Annotated[
        bool,
        Option(
            "--nights-only",
            help="Only simulate the nights, into OUT/recordings, to try the commands on.",
            rich_help_panel=FILES,
        ),
    ] = False
    model: Annotated[
        str,
        Option(
            help="Base model to train instead of 'tiny': a folder or a name on the hub.",
            rich_help_panel=FILES,
        ),
    ] = "tiny"
    features: Features = "real"
    seed: Seed = 42


def settings_from(kind: type[_Settings], values: Mapping[str, Any]) -> _Settings:
    """Return settings from what JSON has kept of their fields; paths are texts there.

    Relative paths stay so: whoever reads them starts in the same folder.
    """

    def typed(hint: Any, value: Any) -> Any:
        if value is None:
            return None
        if hint is Path or Path in get_args(hint):
            return [Path(v) for v in value] if get_origin(hint) is list else Path(value)
        return value

    hints = get_type_hints(kind)
    return kind(**{name: typed(hints[name], value) for name, value in values.items()})
