from __future__ import annotations

import errno
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from eegtool import __version__, cli
from eegtool.core import registry
from eegtool.core.errors import EegToolError
from eegtool.core.launching import Stopped

HEAVY = {"numpy", "scipy", "mne", "torch", "pandas", "matplotlib", "transformers", "sklearn"}
TINY = ["--model_name_or_path", "tiny"]
TREE: Any = typer.main.get_command(cli.app)
COMMANDS = [
    *("prepare", "extract", "finetune", "evaluate", "report"),
    *("stage", "export", "inspect", "ask", "doctor", "demo"),
]


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"COLUMNS": "100", "TERMINAL_WIDTH": "100"}
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, env=environment, check=False
    )


def eegvlm(*arguments: str) -> subprocess.CompletedProcess[str]:
    return python("-m", "eegtool", *arguments)


@pytest.mark.parametrize("arguments", [[], ["--help"], ["finetune", "--help"]])
def test_help_loads_nothing_heavy(arguments: list[str]) -> None:
    run = f"cli.app({arguments!r})" if arguments else "pass"
    done = python(
        "-c",
        f"""
import json, sys
from eegtool import cli
try:
    {run}
except SystemExit as end:
    assert end.code == 0
print(json.dumps(sorted(sys.modules)), file=sys.stderr)
""",
    )
    assert done.returncode == 0, done.stderr
    loaded = {name.partition(".")[0] for name in json.loads(done.stderr)}
    assert "typer" in loaded
    assert not loaded & HEAVY
    assert ("Usage" in done.stdout) == bool(arguments)


def test_help_lists_the_commands() -> None:
    done = eegvlm("--help")
    assert done.returncode == 0
    assert sorted(TREE.commands) == sorted(COMMANDS)
    positions = [done.stdout.index(f"│ {name} ") for name in COMMANDS]
    assert positions == sorted(positions)  # in the order in which they are run
    assert "…" not in done.stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_a_command_reads_well(name: str) -> None:
    done = eegvlm(name, "--help")
    assert done.returncode == 0
    assert "…" not in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 100
    words = done.stdout.replace("│", " ").split()
    for parameter in TREE.commands[name].params:
        named = parameter.opts[0].startswith("--")
        assert (parameter.opts[0] if named else parameter.metavar) in words
    options = [word for word in words if word.startswith("--")]
    assert len(options) == len(set(options)) > 1


@pytest.mark.parametrize("command", [["--version"], ["-m", "eegtool", "--version"]])
def test_version(command: list[str]) -> None:
    script = [str(Path(sys.executable).with_name("eegvlm"))]
    start = [sys.executable] if command[0] == "-m" else script
    done = subprocess.run([*start, *command], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, f"eegvlm {__version__}\n")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["prepare"], ["PATH"]),
        (["prepare", "x", "--size", "big"], ["--size", "integer"]),
        (["prepare", "x", "--size", "8"], ["--size", "32"]),
        (["evaluate", "--model-path", "x", "--features", "some"], ["some", "shuffled"]),
        (["ask", "--model-path", "x"], ["IMAGE"]),
        (["ask", "x.png"], ["--model-path"]),
        (["report", "--no-such-option"], ["--no-such-option"]),
        (["reprot"], ["reprot"]),
        (["finetune"], ["--model-name-or-path"]),
        (["finetune", "--model_name_or_path"], ["--model-name-or-path", "argument"]),
        (["finetune", *TINY, "--lora_r", "many"], ["--lora-r", "integer"]),
        (["finetune", *TINY, "16"], ["16"]),
    ],
)
def test_usage_errors_exit_with_2(arguments: list[str], named: list[str]) -> None:
    done = eegvlm(*arguments)
    assert done.returncode == 2
    said = done.stderr.partition("Error")[2]
    assert all(word in said for word in named)
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_an_error_is_a_message_and_exit_code_1(tmp_path: Path) -> None:
    done = eegvlm("prepare", str(tmp_path / "nowhere"))
    assert done.returncode == 1
    assert done.stderr == (
        f"error: {tmp_path}/nowhere does not exist.\nGive recordings or folders of them.\n"
    )
    assert done.stdout == ""


def invoke(monkeypatch: pytest.MonkeyPatch, outcome: object, *arguments: str) -> tuple[int, str]:
    """Run a command whose body does `outcome`; return its exit code and what stands on stderr."""

    def step(_: object) -> None:
        if isinstance(outcome, BaseException):
            raise outcome

    monkeypatch.setattr(cli, "load", lambda target: step)
    result = CliRunner().invoke(cli.app, arguments)
    return result.exit_code, result.stderr


def test_long_and_odd_messages_are_printed_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    what = f"[bold]{'x' * 300}[/] is missing [1]"
    error = EegToolError(what, "Use --[x] or 'y'.")
    code, stderr = invoke(monkeypatch, error, "report")
    assert (code, stderr) == (1, f"error: {what}\nUse --[x] or 'y'.\n")
    assert invoke(monkeypatch, EegToolError("all said"), "report") == (1, "error: all said\n")


def test_a_path_that_cannot_be_used_is_a_message(monkeypatch: pytest.MonkeyPatch) -> None:
    error = IsADirectoryError(21, "Is a directory", "answers")
    code, said = invoke(monkeypatch, error, "report")
    assert code == 1
    assert "error: answers: Is a directory." in said


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "error: No space left on device."),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "error: Disk quota exceeded."),
        (OSError(errno.EROFS, "Read-only file system", "x"), "error: x: Read-only file system."),
        (PermissionError(errno.EACCES, "Permission denied", "x"), "error: x: Permission denied."),
        (
            MemoryError("Unable to allocate 3 TiB"),
            "error: Memory ran out: Unable to allocate 3 TiB",
        ),
        (MemoryError(), "error: Memory ran out: MemoryError."),
    ],
)
def test_what_the_machine_refuses_is_a_message(
    monkeypatch: pytest.MonkeyPatch, error: Exception, said: str
) -> None:
    code, stderr = invoke(monkeypatch, error, "report")
    assert code == 1
    what, fix = stderr.splitlines()
    assert what.startswith(said)
    assert fix


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["finetune", *TINY, "--num-train-epochs", "inf"],
            "--num-train-epochs inf is not a finite",
        ),
        (["finetune", *TINY, "--weight_decay", "inf"], "--weight-decay inf is not a finite"),
        (
            ["evaluate", "--model-path", "m", "--temperature", "Infinity"],
            "--temperature inf is not a finite",
        ),
        (["extract", "--learning-rate", "1e999"], "--learning-rate inf is not a finite"),
        (["finetune", *TINY, "--max-steps", f"1{'0' * 30}"], "--max-steps: the number has more"),
        (["report", "--draws", f"{2**63}"], "--draws: the number has more"),
        (
            ["ask", "a.png", "stage \udcff?", "--model-path", "m"],
            r"QUESTION 'stage \udcff?' is not",
        ),
        (["ask", "\udce9.png", "--model-path", "m"], r"IMAGE '\udce9.png' is not"),
        (["report", "ok", "\udc80"], r"ANSWERS '\udc80' is not"),
        (["prepare", "x", "--channel", "C4", "--channel", "\udcb5"], r"--channel '\udcb5' is not"),
        (["finetune", *TINY, "--run_name", "\udcff"], r"--run-name '\udcff' is not"),
    ],
)
def test_values_that_nothing_can_mean_are_refused_before_a_step_begins(
    monkeypatch: pytest.MonkeyPatch, arguments: list[str], said: str
) -> None:
    def read(given: Any, own: Any) -> Any:
        return given

    def begin(settings: Any) -> None:
        pytest.fail("the step began")

    def no_step(target: str) -> Any:
        return read if target == cli.FlagsCommand.read_flags else begin

    monkeypatch.setattr(cli, "load", no_step)
    result = CliRunner().invoke(cli.app, arguments)
    assert (result.exit_code, result.stderr[: len(said) + 7]) == (1, f"error: {said}")


@pytest.mark.parametrize("command", ["prepare", "finetune", "evaluate", "report", "demo"])
@pytest.mark.parametrize("seed", ["-1", f"{2**32}"])
def test_a_seed_is_one_that_numpy_takes(
    monkeypatch: pytest.MonkeyPatch, command: str, seed: str
) -> None:
    given = {"prepare": ["x"], "finetune": TINY}.get(command, [])
    code, said = invoke(monkeypatch, None, command, *given, "--seed", seed)
    assert code == 2
    assert "--seed" in said
    assert ("0" if seed == "-1" else f"{2**32 - 1}") in said


def test_ctrl_c(monkeypatch: pytest.MonkeyPatch) -> None:
    assert invoke(monkeypatch, KeyboardInterrupt(), "report") == (130, "interrupted\n")


def test_a_bug_is_not_dressed_up_as_a_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "load", lambda target: lambda settings: 1 / 0)
    result = CliRunner().invoke(cli.app, ["report"])
    assert isinstance(result.exception, ZeroDivisionError)


def test_evaluate_takes_model_vqas_spelling(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    load = registry.load
    own = "eegtool.evaluate.step:run"
    monkeypatch.setattr(cli, "load", lambda target: seen.append if target == own else load(target))
    words = "--model-path m/ --model-base b --conv-mode llava_v1 --num_chunks 3 --chunk-idx=1"
    words += " --temperature 0.2 --top_p 0.9 --num_beams 2 --overwrite True --deterministic False"
    result = CliRunner().invoke(cli.app, ["evaluate", *words.split()])
    assert result.exit_code == 0, result.stderr
    (settings,) = seen
    assert (settings.model_path, settings.model_base) == (Path("m"), "b")
    assert (settings.conv_mode, settings.num_chunks, settings.chunk_idx) == ("llava_v1", 3, 1)
    assert (settings.temperature, settings.top_p, settings.num_beams) == (0.2, 0.9, 2)
    assert (settings.overwrite, settings.deterministic) == (True, False)
    result = CliRunner().invoke(cli.app, ["evaluate", "--model-path", "m", "--lora_r", "8"])
    assert result.exit_code == 2
    assert "--lora_r: no such flag" in result.stderr


def test_options_become_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    def load(target: str) -> Any:
        seen.append(target)
        return seen.append

    monkeypatch.setattr(cli, "load", load)
    arguments = ["a", "b", "-w", "ws", "--low-hz", "0.5", "--eval-subjects", "SC400, SC401"]
    assert CliRunner().invoke(cli.app, ["prepare", *arguments]).exit_code == 0
    target, settings = seen
    assert target == "eegtool.prepare.step:run"
    assert settings.recordings == [Path("a"), Path("b")]
    assert settings.workspace == Path("ws")
    assert (settings.low_hz, settings.high_hz) == (0.5, 35.0)
    assert settings.eval_subjects == "SC400, SC401"


def finetune(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> Any:
    """Return the settings that a command line comes to; other programs' flags stay words."""
    seen: list[Any] = []

    def load(target: str) -> Any:
        if target == cli.FlagsCommand.read_flags:
            return lambda given, own: given
        return seen.append if target == "eegtool.finetune.step:run" else registry.load(target)

    monkeypatch.setattr(cli, "load", load)
    result = CliRunner().invoke(cli.app, ["finetune", *arguments])
    assert result.exit_code == 0, result.output
    return seen[0]


def test_finetune_takes_llavas_spelling(monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = "--lora_enable True --lora_r 8 --gradient_checkpointing True --weight_decay 0."
    arguments += " --mm_vision_select_layer -2 --evaluation_strategy no --group_by_length True"
    settings = finetune(monkeypatch, *TINY, *arguments.split(), "-w", "here", "--resume", "False")
    assert (settings.lora_r, settings.weight_decay) == (8, 0.0)
    assert settings.gradient_checkpointing
    assert settings.group_by_modality_length
    assert not settings.resume
    assert settings.workspace == Path("here")
    assert settings.further == {
        "lora_enable": ["True"],
        "mm_vision_select_layer": ["-2"],
    }
    assert settings.eval_strategy == "no"


def test_without_flags_of_others_nothing_of_theirs_is_loaded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert finetune(monkeypatch, *TINY).further == {}


def test_flags_win_over_the_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    config = tmp_path / "recipe.yaml"
    config.write_text(
        "model_name_or_path: tiny\nlora-r: 8\nlora_alpha: 32\nresume: true\n"
        "gradient_checkpointing: True\nbf16: True\ntf32: True\n"
    )
    flags = ["--lora_r", "16", "--resume", "False", "--bf16", "False"]
    settings = finetune(monkeypatch, "--config", str(config), *flags)
    assert (settings.model_name_or_path, settings.config) == ("tiny", config)
    assert (settings.lora_r, settings.lora_alpha) == (16, 32)
    assert (settings.resume, settings.gradient_checkpointing) == (False, True)
    assert settings.further == {"bf16": ["False"], "tf32": ["True"]}


@pytest.mark.parametrize(
    ("line", "code", "said"),
    [
        ("lora_rank: 8", 2, ["recipe.yaml", "lora_rank", "--lora-r"]),
        ("lora_r: many", 2, ["--lora-r", "'lora_r' of", "recipe.yaml"]),
        ("resume: perhaps", 2, ["recipe.yaml", "resume", "neither"]),
        ("config: other.yaml", 1, ["recipe.yaml", "'config'"]),
        ("lora_r: [", 1, ["recipe.yaml", "line 2"]),
        ("lora_r: {}", 1, ["recipe.yaml", "'lora_r'"]),
        (f"lora_r: {'[' * 3000}{']' * 3000}", 1, ["recipe.yaml is nested too deeply"]),
        (f"lora_r: {'{a: ' * 3000}{'}' * 3000}", 1, ["recipe.yaml is nested too deeply"]),
        ("- " * 3000 + "x", 1, ["recipe.yaml is nested too deeply"]),
        ('vision_tower: "\\ud83d"', 1, ["--vision-tower", "is not UTF-8 text"]),
    ],
)
def test_an_error_in_the_file_names_file_and_key(
    tmp_path: Path, line: str, code: int, said: list[str]
) -> None:
    config = tmp_path / "recipe.yaml"
    config.write_text(f"{line}\n")
    result = CliRunner().invoke(cli.app, ["finetune", *TINY, "--config", str(config)])
    assert result.exit_code == code
    words = "".join(result.stderr.replace("│", "").split())  # long names are broken up
    assert all("".join(word.split()) in words for word in said)


def test_help_wins_over_other_flags() -> None:
    result = CliRunner().invoke(cli.app, ["finetune", "--no_such_flag", "1", "--help"])
    assert result.exit_code == 0
    assert "--lora-r" in result.stdout


def test_a_signal_is_the_exit_code(monkeypatch: pytest.MonkeyPatch) -> None:
    assert invoke(monkeypatch, Stopped(15), "report") == (143, "interrupted\n")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_a_body(name: str) -> None:
    """The targets are text, so that they are imported late: see that they are spelled right."""
    elsewhere = {
        "demo": "eegtool/demo.py",
        "doctor": "eegtool/doctor.py",
        "inspect": "eegtool/prepare/inspection.py",
        "export": "eegtool/finetune/export.py",
        "ask": "eegtool/evaluate/ask.py",
    }
    room = elsewhere.get(name, f"eegtool/{name}/step.py")
    source = Path(__file__).parents[1] / room
    assert re.search(r"^def run\(\s*settings: ", source.read_text(encoding="utf-8"), re.M)
    dotted = room.removesuffix(".py").replace("/", ".")
    assert f'"{dotted}:run"' in Path(cli.__file__).read_text(encoding="utf-8")
