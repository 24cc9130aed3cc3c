from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainingArguments
from typer.testing import CliRunner

from eegtool import cli
from eegtool.core.errors import EegToolError
from eegtool.core.flags import FlagError
from eegtool.finetune import arguments
from eegtool.finetune.arguments import read_flags, training_arguments
from eegtool.finetune.hardware import Hardware
from eegtool.finetune.options import FinetuneSettings

SETTINGS = FinetuneSettings("tiny")

# LLaVA's flags of the recipe's third step that are none of finetune's own, as typed there.
RECIPE = {
    "lora_enable": ["True"],
    "mm_projector_type": ["mlp2x_gelu"],
    "mm_vision_select_layer": ["-2"],
    "mm_use_im_start_end": ["False"],
    "mm_use_im_patch_token": ["False"],
    "image_aspect_ratio": ["pad"],
    "bf16": ["True"],
    "per_device_eval_batch_size": ["4"],
    "tf32": ["True"],
    "lazy_preprocess": ["True"],
}


CPU = Hardware(gpu=False, best=torch.float32)
GPU = Hardware(gpu=True, best=torch.bfloat16)
SLOW_GPU = Hardware(gpu=True, best=torch.float16)
OLD_GPU = Hardware(gpu=True, best=torch.float16, bf16=False)


def built(hardware: Hardware = CPU, **further: Any) -> tuple[dict[str, Any], list[str]]:
    settings = replace(SETTINGS, further=further)
    return training_arguments(settings, output_dir="out", hardware=hardware)


def test_flags_of_others_get_their_types() -> None:
    given = {
        "max_grad_norm": ["0.5"],
        "adam_beta2": ["0.95"],
        "max_steps": ["7"],
        "optim": ["adafactor"],
        "dataloader_drop_last": [],
        "no_dataloader_pin_memory": [],
        "logging_first_step": ["False"],
        "label_names": ["a", "b"],
        "lr_scheduler_kwargs": ['{"num_cycles": 2}'],
        "run_name": ["first"],
        "lora_enable": [],
        "mm_vision_select_layer": ["-2"],
    }
    assert read_flags(given) == {
        "max_grad_norm": 0.5,
        "adam_beta2": 0.95,
        "max_steps": 7,
        "optim": "adafactor",
        "dataloader_drop_last": True,
        "dataloader_pin_memory": False,
        "logging_first_step": False,
        "label_names": ["a", "b"],
        "lr_scheduler_kwargs": '{"num_cycles": 2}',
        "run_name": "first",
        "lora_enable": True,
        "mm_vision_select_layer": -2,
    }
    values = read_flags(given).values()
    assert all(type(v) in (bool, int, float, str, list) for v in values)  # JSON, no enums


@pytest.mark.parametrize(
    ("name", "words", "message"),
    [
        ("lora_rank", ["8"], r"did you mean .*--lora-r\?"),
        ("max_grad_norms", ["8"], "did you mean --max-grad-norm"),
        ("mm_projector_typ", ["x"], "did you mean --mm-projector-type"),
        ("qqqqqq", [], "no such flag of eegvlm, LLaVA or transformers$"),
        ("max_grad", ["1"], "no such flag"),  # argparse would guess at what is meant
        ("max_grad_norm", ["much"], "invalid float value: 'much'"),
        ("max_grad_norm", [], "expected one argument"),
        ("max_grad_norm", ["1", "2"], "unrecognized arguments: 2"),
        ("optim", ["sgdd"], "invalid choice: 'sgdd'"),
        ("bf16", ["perhaps"], "perhaps"),
        ("lora_enable", ["perhaps"], "neither True nor False"),
        ("mm_vision_select_layer", ["last"], "invalid literal"),
        ("image_aspect_ratio", ["pad", "square"], "one value, not 2"),
    ],
)
def test_what_is_no_flag_or_no_value_is_refused(name: str, words: list[str], message: str) -> None:
    with pytest.raises(FlagError, match=message) as caught:
        read_flags({name: words}, ["--lora-r", "--lora-alpha"])
    assert caught.value.name == name


@pytest.mark.parametrize("flag", ["--lora_rank 8", "--max_grad_norm x"])
def test_an_unknown_flag_is_a_usage_error(flag: str) -> None:
    typed = ["finetune", "--model_name_or_path", "tiny", *flag.split()]
    result = CliRunner().invoke(cli.app, typed)
    assert result.exit_code == 2
    assert flag.split()[0] in result.stderr


def test_the_recipes_flags_are_taken_and_reported() -> None:
    made, notes = built(**read_flags(RECIPE))
    assert not made.keys() & (RECIPE.keys() - {"bf16"})
    noted = {note.split(":")[0] for note in notes}
    assert noted == {"--per_device_eval_batch_size", "--bf16", "--tf32"}
    assert made["bf16"] is True


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("lora_enable", False),
        ("lora_bias", "all"),
        ("mm_projector_type", "linear"),
        ("mm_vision_select_layer", -1),
        ("mm_use_im_start_end", True),
        ("tune_mm_mlp_adapter", True),
        ("pretrain_mm_mlp_adapter", "mm_projector.bin"),
        ("polyak", True),
        ("overwrite_output_dir", True),
        ("eval_on_start", True),
        ("remove_unused_columns", True),
        ("label_names", ["other"]),
        ("resume_from_checkpoint", "checkpoint-1"),
        ("save_only_model", True),
        ("fsdp", "full_shard"),
        ("push_to_hub", True),
        ("label_smoothing_factor", 0.1),
        ("auto_find_batch_size", True),
        ("torch_compile", True),
        ("dataloader_prefetch_factor", 2),
        ("dataloader_persistent_workers", True),
        ("torch_compile_backend", "inductor"),
        ("liger_kernel_config", '{"fused_linear_cross_entropy": true}'),
    ],
)
def test_what_is_not_done_here_is_refused(name: str, value: Any) -> None:
    with pytest.raises(EegToolError, match=rf"--{name} .* cannot be done") as caught:
        built(**{name: value})
    assert caught.value.fix


@pytest.mark.parametrize(
    "asked",
    [
        {"remove_unused_columns": False},
        {"label_names": ["labels"]},
        {"eval_on_start": False},
        {"fsdp": ""},
        {"save_only_model": False},
        {"resume_from_checkpoint": None},
        {"overwrite_output_dir": False, "save_safetensors": True, "image_aspect_ratio": "square"},
    ],
)
def test_what_is_done_anyway_may_be_asked_for(asked: dict[str, Any]) -> None:
    assert built(**asked) == built()


@pytest.mark.parametrize(
    ("name", "value"),
    [("do_eval", True), ("eval_delay", 5), ("hub_model_id", "me/it"), ("disable_tqdm", False)],
)
def test_what_has_no_effect_is_reported(name: str, value: Any) -> None:
    made, notes = built(**{name: value})
    assert made == built()[0]
    assert len(notes) == 1
    assert notes[0].startswith(f"--{name}: ")


def test_other_arguments_reach_transformers() -> None:
    made, notes = built(max_grad_norm=0.5, optim="adamw_torch", warmup_steps=7)
    assert (made["max_grad_norm"], made["optim"]) == (0.5, "adamw_torch")
    assert made["warmup_steps"] == 7
    assert not notes
    args = TrainingArguments(**made)
    assert (args.max_grad_norm, args.output_dir) == (0.5, "out")


def test_settings_become_arguments() -> None:
    settings = replace(
        SETTINGS, max_steps=-1, warmup_ratio=0.1, save_strategy="epoch", save_steps=7, seed=3
    )
    made, _ = training_arguments(settings, output_dir="out", hardware=CPU)
    assert (made["max_steps"], made["warmup_steps"], made["seed"]) == (-1, 0.1, 3)
    assert (made["save_strategy"], made["save_steps"]) == ("epoch", 7)
    assert made["output_dir"] == "out"
    assert "dataloader_num_workers" not in made  # each rank looks at its machine
    settings = replace(settings, dataloader_num_workers=0)
    made, _ = training_arguments(settings, output_dir="out", hardware=CPU)
    assert made["dataloader_num_workers"] == 0


def test_what_transformers_refuses_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(EegToolError, match="transformers refuses") as caught:
        built(torch_empty_cache_steps=0)
    assert "\n" not in caught.value.what


def test_what_cannot_be_built_is_refused_before_anything_is_launched() -> None:
    with pytest.raises(EegToolError, match="transformers refuses the training's arguments"):
        built(optim="galore_adamw")


def test_ligers_kernels_need_a_gpu_and_their_package(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(EegToolError, match="--use_liger_kernel needs a GPU"):
        built(use_liger_kernel=True)
    monkeypatch.setattr(arguments, "find_spec", lambda name: None)
    with pytest.raises(EegToolError, match="needs the package liger-kernel"):
        built(GPU, use_liger_kernel=True)
    monkeypatch.setattr(arguments, "find_spec", lambda name: object())
    assert built(GPU, use_liger_kernel=True)[0]["use_liger_kernel"] is True
    assert built(use_liger_kernel=False)[0]["use_liger_kernel"] is False  # asks for nothing


def test_asking_for_what_is_done_anyway_is_no_error() -> None:
    made, notes = built(gradient_checkpointing_kwargs='{"use_reentrant": false}', data_seed=7)
    assert "gradient_checkpointing_kwargs" not in made
    assert "data_seed" not in made
    assert notes == ["--data_seed: --seed draws the order of the samples, too"]
    with pytest.raises(EegToolError, match="accelerator_config"):
        built(accelerator_config='{"dispatch_batches": true}')


def test_an_option_of_finetune_is_not_given_twice() -> None:
    with pytest.raises(EegToolError, match="--learning_rate is an option of finetune"):
        built(learning_rate=1.0)


def test_a_name_that_nobody_knows_is_refused() -> None:
    with pytest.raises(EegToolError, match="--learning_rat is no flag"):
        built(learning_rat=1.0)


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({}, (True, False)),
        ({"bf16": True}, (True, False)),
        ({"fp16": True}, (False, True)),
        ({"bf16": False}, (False, False)),
        ({"bf16": False, "fp16": False}, (False, False)),
        ({"bf16": False, "fp16": True}, (False, True)),
        ({"fp16": False}, (True, False)),
    ],
)
def test_precision_on_a_gpu(asked: dict[str, bool], expected: tuple[bool, bool]) -> None:
    made, notes = built(GPU, **asked)
    assert (made["bf16"], made["fp16"]) == expected
    assert not notes


@pytest.mark.parametrize(
    ("asked", "bf16", "note"),
    [
        ({}, False, ""),
        ({"bf16": False}, False, ""),
        ({"bf16": True}, True, "--bf16: the training runs in bfloat16, which is slow here"),
        ({"fp16": True}, False, "--fp16: there is no GPU here; the training runs in float32"),
    ],
)
def test_precision_on_a_cpu(asked: dict[str, bool], bf16: bool, note: str) -> None:
    made, notes = built(CPU, **asked)
    assert (made["bf16"], made["fp16"]) == (bf16, False)
    assert [n[: len(note)] for n in notes] == [note] * bool(note)


@pytest.mark.parametrize(
    ("hardware", "expected", "note"),
    [
        (SLOW_GPU, (True, False), "bfloat16, which is slow here: this GPU has none of its own"),
        (OLD_GPU, (False, True), "--bf16: this GPU has none; the training runs in float16"),
    ],
)
def test_an_old_gpu_does_what_pytorch_can_and_says_so(
    hardware: Hardware, expected: tuple[bool, bool], note: str
) -> None:
    assert built(hardware)[0]["fp16"] is True
    made, notes = built(hardware, bf16=True)
    assert (made["bf16"], made["fp16"]) == expected
    assert note in notes[0]


def test_tf32_is_passed_on_where_there_is_a_gpu() -> None:
    assert built(GPU, tf32=True)[0]["tf32"] is True
    assert built(GPU, tf32=False)[0]["tf32"] is False
    assert "tf32" not in built(GPU)[0]
    assert "tf32" not in built(CPU, tf32=True)[0]


def test_two_precisions_exclude_each_other() -> None:
    with pytest.raises(EegToolError, match="--bf16 and --fp16 exclude"):
        built(bf16=True, fp16=True)


def test_every_flag_of_transformers_is_decided_on() -> None:
    """A flag that is fixed or without effect here must be one that there is."""
    known = set(TrainingArguments.__dataclass_fields__)
    own = set(FinetuneSettings.__dataclass_fields__)
    assert not arguments.LLAVA.keys() & own
    assert not (arguments.LLAVA.keys() - {"logging_dir"}) & known
    assert not arguments._FIXED.keys() & arguments._NO_EFFECT.keys()
    assert not (arguments._FIXED.keys() | arguments._NO_EFFECT.keys()) & own


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("on", True),
        ("On", True),
        ("yes", True),
        ("t", True),
        ("off", False),
        ("OFF", False),
        ("n", False),
    ],
)
@pytest.mark.parametrize("name", ["bf16", "tf32", "logging_first_step", "lazy_preprocess"])
def test_switches_know_the_words_of_yaml(name: str, word: str, said: bool) -> None:
    assert read_flags({name: [word]}) == {name: said}


@pytest.mark.parametrize("value", ['{"a":' * 5000, "{" * 5000, '{"a": "\\ud83d"}'])
def test_json_that_cannot_be_is_one_line(value: str) -> None:
    with pytest.raises(EegToolError) as caught:
        built(lr_scheduler_type="cosine_with_min_lr", lr_scheduler_kwargs=value)
    assert "\n" not in caught.value.what
    assert len(caught.value.what) < 500
