"""Options of finetune and export."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from eegtool.core.options import (
    FILES,
    GENERAL,
    HARDWARE,
    RUNNING,
    TRAINING,
    Features,
    Further,
    ModelBase,
    Panel,
    Seed,
    TrainingRanks,
    VisionTower,
    Workspace,
)

LORA = Panel("LoRA")
VALIDATION = Panel("Validation")
SAVING = Panel("Saving and logging")
SHARING = Panel("Sharing")


@dataclass(frozen=True, slots=True)
class FinetuneSettings:
    """Fine-tune the vision-language model with LoRA, under DeepSpeed."""

    model_name_or_path: Annotated[
        str,
        FILES.option("Base model: a folder, a name on the Hugging Face hub, or 'tiny' (embedded)."),
    ]
    vision_tower: str = FILES(
        "",
        "CLIP's folder or hub name, where the base model comes without (LLaVA's own layout).",
        shown="the base model's",
    )
    workspace: Workspace = Path("sleep_data")
    output_dir: Path | None = FILES(
        None, "Folder of the adapter.", shown="WORKSPACE/checkpoints/eegvlm"
    )
    data_path: Path | None = FILES(None, "Fine-tuning samples.", shown="WORKSPACE/eeg_ft.json")
    image_folder: Path | None = FILES(
        None, "Folder of their pictures.", shown="WORKSPACE/eeg_images_ft"
    )
    features_file: Path | None = FILES(
        None, "Their high-level features.", shown="WORKSPACE/train_high_level_features.npy"
    )
    continue_from: Path | None = FILES(
        None,
        "Folder of an adapter of the same base, pictures and LoRA, which is trained further on these "
        "samples: corrected nights, for instance.",
        shown="from the beginning",
    )
    config: Path | None = FILES(
        None, "YAML file of any of these settings; the command line wins.", shown="none"
    )
    fusion: str = TRAINING("add", "How features join: 'add' (the paper's), 'token', 'none'.")
    features: Features = "real"
    version: str = TRAINING("v1", "Conversation template (LLaVA's name for it): 'v1', 'llava_v1'.")
    num_train_epochs: float = TRAINING(2.0, "Passes over the samples.", min=0.0)
    max_steps: int | None = TRAINING(None, "Stop after so many steps.", shown="all passes", min=-1)
    per_device_train_batch_size: int = TRAINING(16, "Samples per step and GPU.", min=1)
    gradient_accumulation_steps: int = TRAINING(1, "Steps gathered into one update.", min=1)
    learning_rate: float = TRAINING(3e-4, "Learning rate of LoRA.", min=0.0)
    mm_projector_lr: float = TRAINING(2e-5, "Learning rate of the projector.", min=0.0)
    weight_decay: float = TRAINING(0.0, "Weight decay.", min=0.0)
    warmup_ratio: float = TRAINING(0.03, "Share of steps with a rising rate.", min=0.0, max=0.99)
    lr_scheduler_type: str = TRAINING("cosine", "Schedule, by transformers' name.")
    model_max_length: int = TRAINING(4096, "Longest sequence in tokens.", min=16)
    group_by_modality_length: bool = TRAINING(
        False, "Put samples of about equal length into a batch."
    )
    lora_r: int = LORA(128, "Rank of the updates.", min=1)
    lora_alpha: int = LORA(256, "Updates are scaled by alpha / r.", min=1)
    lora_dropout: float = LORA(0.05, "Dropout before the updates.", min=0.0, max=1.0)
    use_dora: bool = LORA(False, "Also train the length of each row of the weights (DoRA).")
    use_rslora: bool = LORA(False, "Scale updates by alpha / sqrt(r) (rsLoRA).")
    loraplus_lr_ratio: float = LORA(
        1.0,
        "Learning rate of the second matrices, in multiples of the first ones' (LoRA+).",
        min=1.0,
    )
    stage_share: float = TRAINING(
        0.5,
        "Share of the loss that the words naming the stage have in answers with reasons; 0: all words count alike.",
        min=0.0,
        max=0.9,
    )
    eval_strategy: str = VALIDATION(
        "no", "Validate while training: 'no', 'steps' (every so many), 'epoch' (after each pass)."
    )
    eval_steps: int = VALIDATION(100, "Steps between two validations.", min=1)
    eval_subjects_share: float = VALIDATION(
        0.1,
        "Share of the fine-tune side's subjects that are held out for it; at least one.",
        min=0.0,
        max=1.0,
    )
    eval_limit: int = VALIDATION(
        0,
        "Score so many of their epochs, drawn evenly over subjects and stages.",
        shown="all",
        min=0,
    )
    load_best_model_at_end: bool = VALIDATION(
        False, "The adapter is the best validated one, not the last one."
    )
    metric_for_best_model: str = VALIDATION(
        "kappa", "What is best: 'kappa', 'macro_f1', or 'loss' (negative log-likelihood)."
    )
    early_stopping_patience: int = VALIDATION(
        0,
        "Stop after so many validations without a better one; the best one is taken.",
        shown="never",
        min=0,
    )
    calibrate: bool = VALIDATION(
        False,
        "In the end, calibrate the adapter on all epochs of the held-out subjects, as "
        "`evaluate --calibrate` does.",
    )
    deepspeed: str = HARDWARE(
        "zero2", "DeepSpeed settings: 'zero2', 'zero3', 'zero3_offload', a JSON file, or 'none'."
    )
    num_gpus: TrainingRanks = 0
    hostfile: Path | None = HARDWARE(
        None, "Several machines: DeepSpeed's file of 'host slots=GPUS' lines.", shown="this machine"
    )
    bits: int = HARDWARE(
        16, "Bits per weight: 16, or 4 for a quantised language model.", min=4, max=16
    )
    attention: str = HARDWARE("auto", "Attention: 'auto', 'sdpa', 'flash_attention_2', 'eager'.")
    gpu_memory: float = HARDWARE(
        0.0, "With --dry-run: say what fits a GPU of so many GiB.", shown="no", min=0.0
    )
    gradient_checkpointing: bool = HARDWARE(False, "Need less memory and more time.")
    dataloader_num_workers: int | None = HARDWARE(
        None,
        "Threads of each rank that decode pictures.",
        shown="up to 4 beside a GPU, else 1",
        min=0,
    )
    save_strategy: str = SAVING("steps", "Checkpoints: 'steps', 'epoch', 'no'.")
    save_steps: int = SAVING(500, "Steps between two checkpoints.", min=1)
    save_total_limit: int = SAVING(1, "Checkpoints that are kept.", min=1)
    logging_steps: int = SAVING(10, "Steps between two log rows.", min=1)
    report_to: str = SAVING("none", "Log to 'none', 'tensorboard', 'wandb'.")
    resume: bool = RUNNING(False, "Continue from the last checkpoint in the output folder.")
    stop_patience: float = RUNNING(60.0, "Seconds to finish a step and save when stopped.", min=0.0)
    dry_run: bool = RUNNING(
        False, "Check everything; say command, steps, memory and disk; load no weights."
    )
    seed: Seed = 42
    further: Further = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ExportSettings:
    """Merge adapter and base into one model folder, to serve or to share."""

    model_path: Annotated[Path, FILES.option("Adapter folder that finetune wrote.")]
    out: Annotated[Path, FILES.option("Folder of the merged model.")]
    model_base: ModelBase = None
    vision_tower: VisionTower = ""
    dtype: Literal["bfloat16", "float16", "float32"] = GENERAL(
        "bfloat16", "Precision of the weights."
    )
    push_to_hub: str = SHARING("", "Also upload it as USER/NAME.", shown="no")
    metrics: Path | None = SHARING(
        None, "The metrics.json of report, for the model card.", shown="none"
    )
    licence: str = SHARING(
        "", "Licence of the base model, for the model card.", shown="as its folder says"
    )
