"""Options of finetune and export."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Final, Literal

from typer import Option

from eegtool.core.options import (
    FILES,
    HARDWARE,
    RUNNING,
    TRAINING,
    Features,
    Further,
    ModelBase,
    Seed,
    TrainingRanks,
    VisionTower,
    Workspace,
)

LORA: Final = "LoRA"
VALIDATION: Final = "Validation"
SAVING: Final = "Saving and logging"
SHARING: Final = "Sharing"


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
