from __future__ import annotations

from pathlib import Path

import pytest

from eegtool.core.errors import EegToolError
from eegtool.core.flags import FlagError, Spelling, read_arguments, read_config, spell, truth

LORA_R = Spelling("lora_r", "--lora-r")
RESUME = Spelling("resume", "--resume", switch=True)
AUGMENT = Spelling("augment", "--augment", "--no-augment", switch=True)
WORKSPACE = Spelling("workspace", "--workspace")
OPTIONS = {
    "lora_r": LORA_R,
    "resume": RESUME,
    "augment": AUGMENT,
    "no_augment": AUGMENT,
    "workspace": WORKSPACE,
    "-w": WORKSPACE,
}
RENAMED = {"evaluation_strategy": "eval_strategy", "rank": "lora_r"}


@pytest.mark.parametrize(
    ("typed", "values"),
    [
        ("--lora_r 8", {"lora_r": ["8"]}),
        ("--lora-r 8", {"lora_r": ["8"]}),
        ("--lora_r=8", {"lora_r": ["8"]}),
        ("--lora-r=a=b", {"lora_r": ["a=b"]}),
        ("--rank 8", {"lora_r": ["8"]}),
        ("--lora-r 8 --lora_r 9", {"lora_r": ["9"]}),  # the later one wins
        ("--lora-r -2", {"lora_r": ["-2"]}),
        ("--lora-r", {"lora_r": []}),
        ("--lora-r --resume", {"lora_r": [], "resume": ["true"]}),
        ("--resume", {"resume": ["true"]}),
        ("--resume True", {"resume": ["true"]}),
        ("--resume False", {"resume": ["false"]}),
        ("--resume=0", {"resume": ["false"]}),
        ("--resume true --resume False", {"resume": ["false"]}),
        ("--no-augment", {"augment": ["false"]}),
        ("--no_augment False", {"augment": ["true"]}),
        ("--augment no", {"augment": ["false"]}),
        ("-w here --lora-r 1", {"workspace": ["here"], "lora_r": ["1"]}),
        ("--bf16 True -w here", {"bf16": ["True"], "workspace": ["here"]}),
        ("--bf16 --tf32 True", {"bf16": [], "tf32": ["True"]}),
        ("--mm_vision_select_layer -2", {"mm_vision_select_layer": ["-2"]}),
        ("--label_names a b --resume", {"label_names": ["a", "b"], "resume": ["true"]}),
        ("--evaluation_strategy no", {"eval_strategy": ["no"]}),
        ("--weight_decay 0.", {"weight_decay": ["0."]}),
    ],
)
def test_every_spelling_means_the_same(typed: str, values: dict[str, list[str]]) -> None:
    assert read_arguments(typed.split(), OPTIONS, RENAMED) == (values, [])


def test_what_is_no_flag_is_left_over() -> None:
    values, rest = read_arguments("--lora-r 8 9 --resume x -q".split(), OPTIONS, RENAMED)
    assert values == {"lora_r": ["8"], "resume": ["true"]}
    assert rest == ["9", "x", "-q"]


def test_a_switch_is_on_or_off() -> None:
    with pytest.raises(FlagError, match="'perhaps' is neither True nor False") as caught:
        read_arguments(["--resume=perhaps"], OPTIONS, RENAMED)
    assert caught.value.name == "resume"


@pytest.mark.parametrize(
    ("word", "said"),
    [("True", True), ("FALSE", False), ("yes", True), ("off", False), ("2", None), ("", None)],
)
def test_words_for_on_and_off(word: str, said: bool | None) -> None:
    assert truth(word) is said


@pytest.mark.parametrize(
    ("words", "option", "spelt"),
    [
        (["8"], LORA_R, ["--lora-r=8"]),
        ([], LORA_R, ["--lora-r"]),
        (["true"], RESUME, ["--resume"]),
        (["no"], RESUME, []),
        (["False"], AUGMENT, ["--no-augment"]),
    ],
)
def test_an_option_is_spelt_for_its_command(
    words: list[str], option: Spelling, spelt: list[str]
) -> None:
    assert spell(option.name, words, option) == spelt


@pytest.mark.parametrize(
    ("words", "option", "message"),
    [
        (["1", "2"], LORA_R, "takes one value, not 2"),
        (["1", "0"], RESUME, "neither"),
        (["maybe"], RESUME, "neither"),
    ],
)
def test_a_value_that_an_option_cannot_have(
    words: list[str], option: Spelling, message: str
) -> None:
    with pytest.raises(FlagError, match=message):
        spell(option.name, words, option)


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_in_a_file_all_is_text(tmp_path: Path) -> None:
    """For YAML, 3e-4 is text, 1_000 a number, and `no` means False: here nothing is guessed."""
    text = """# the recipe
learning_rate: 3e-4
save-steps: 1_000
evaluation_strategy: no
bf16: True
output_dir: "runs/é: 1"
label_names: [labels, other]
"""
    assert read_config(write(tmp_path, text), RENAMED) == {
        "learning_rate": ["3e-4"],
        "save_steps": ["1_000"],
        "eval_strategy": ["no"],
        "bf16": ["True"],
        "output_dir": ["runs/é: 1"],
        "label_names": ["labels", "other"],
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lora_r: 1\nlora_r: 2\n", "'lora_r' is given twice"),
        ("lora_r: 1\nlora-r: 2\n", "'lora-r' is given twice"),
        ("rank: 1\nlora_r: 2\n", "'lora_r' is given twice"),
        ("lora_r: {a: 1}\n", "'lora_r' has no value"),
        ("lora_r:\n", "'lora_r' has no value"),
        ("lora_r: 1\nb: [\n", r"recipe.yaml, line 3: .*"),
        ("- a\n", "no 'name: value' lines"),
        ("", "no 'name: value' lines"),
    ],
)
def test_a_file_that_is_none_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(EegToolError, match=message):
        read_config(write(tmp_path, text), RENAMED)


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EegToolError, match=r"no\.yaml does not exist"):
        read_config(tmp_path / "no.yaml", {})
    with pytest.raises(EegToolError, match="cannot be read"):
        read_config(tmp_path, {})
    (tmp_path / "latin.yaml").write_bytes(b"a: \xe9")
    with pytest.raises(EegToolError, match=r"latin\.yaml"):
        read_config(tmp_path / "latin.yaml", {})


def test_yaml_cannot_run_code(tmp_path: Path) -> None:
    made = tmp_path / "made"
    read_config(write(tmp_path, f"a: !!python/object/apply:os.mkdir [{made}]\n"), {})
    assert not made.exists()
