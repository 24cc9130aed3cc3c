"""The command line: options come from the settings classes, bodies import their step when they run.

Nothing heavier than typer and rich is imported here, so that ``eegvlm --help`` is instant.
"""

from __future__ import annotations

import inspect
import os
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, Final, get_args

import typer
from rich.console import Console
from rich.text import Text
from typer.core import TyperCommand
from typer.models import ArgumentInfo, ParameterInfo

from eegtool import __version__
from eegtool.core import flags
from eegtool.core.errors import EegToolError, brief, of_system
from eegtool.core.options import annotations_of
from eegtool.core.parsing import check_text, finite
from eegtool.core.registry import load
from eegtool.evaluate.options import AskSettings, EvaluateSettings
from eegtool.extract.options import ExtractSettings
from eegtool.finetune.options import ExportSettings, FinetuneSettings
from eegtool.options import DemoSettings, DoctorSettings
from eegtool.prepare.options import InspectSettings, PrepareSettings
from eegtool.report.options import ReportSettings
from eegtool.stage.options import StageSettings

app = typer.Typer(
    name="eegvlm",
    help="Raw overnight EEG in, a vision-language model that stages sleep out.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)


def _show_version(value: bool) -> None:
    if value:
        typer.echo(f"eegvlm {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option("--version", help="Print the version.", callback=_show_version, is_eager=True),
    ] = False,
) -> None:
    pass


# The class of "No such option"; typer brings a click of its own or uses click's, by version.
_UsageError: Any = typer.BadParameter.__mro__[1]

_RENAMED: Final = {
    "evaluation_strategy": "eval_strategy",
    "activation_checkpointing": "gradient_checkpointing",
    "attn_implementation": "attention",
    "group_by_length": "group_by_modality_length",
}
"""Names that LLaVA, or another release of transformers, has for the same thing."""


class FlagsCommand(TyperCommand):
    """A command that takes LLaVA's command line as it is typed there, and a file of flags.

    What is none of its own options is read by `read_flags` and handed to the settings as ``further``.
    """

    read_flags = "eegtool.finetune.arguments:read_flags"

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Write the command line as typer reads it, then let typer read it."""
        if "--help" in args:
            return super().parse_args(ctx, ["--help"])
        options = _spellings(self.get_params(ctx))
        config, file = flags.Values(), ""
        try:
            given, rest = flags.read_arguments(args, options, _RENAMED)
            if given.get("config"):
                file = given["config"][0]
                config = flags.read_config(Path(file), _RENAMED)
                if "config" in config:
                    raise EegToolError(
                        f"--config {file} names another such file.", "Take its 'config' out."
                    )
            merged = config | given
            own = {name: words for name, words in merged.items() if name in options}
            rest += [t for n, words in own.items() for t in flags.spell(n, words, options[n])]
            further = {name: words for name, words in merged.items() if name not in own}
            ctx.meta["further"] = (
                load(self.read_flags)(further, [f.on for f in options.values()]) if further else {}
            )
            # An option without its value goes last: it would swallow the next flag.
            forgotten = [o.on for o in options.values() if not o.switch]
            return super().parse_args(ctx, sorted(rest, key=lambda token: token in forgotten))
        except flags.FlagError as error:
            by_file = error.name in config and error.name not in given
            flag = f"--config {file}: {error.name}" if by_file else f"--{error.name}"
            end = "" if error.what.endswith("?") else "."
            raise _UsageError(f"{flag}: {error.what}{end}", ctx=ctx) from None
        except typer.BadParameter as error:
            name = flags.name_of(error.param.opts[0]) if error.param else ""
            if name in config and name not in given:
                error.message += f" ('{name}' of {file})"
            raise
        except EegToolError as error:
            print_error(error)
            raise typer.Exit(1) from None


class SpellingCommand(FlagsCommand):
    """A command that takes LLaVA's spellings of its options, and no further flags."""

    read_flags = "eegtool.core.flags:refuse_further"


def _spellings(parameters: list[Any]) -> dict[str, flags.Spelling]:
    """List a command's options under every name they go by."""
    found = {}
    for parameter in parameters:
        on = next(o for o in parameter.opts if o.startswith("--"))
        off = next(iter(parameter.secondary_opts), "")
        option = flags.Spelling(flags.name_of(on), on, off, parameter.is_flag)
        for spelt in (*parameter.opts, *parameter.secondary_opts):
            found[flags.name_of(spelt) if spelt.startswith("--") else spelt] = option
    return found


def _is_option(hint: Any) -> bool:
    """Tell options from what is gathered out of the rest of the command line (`Further`)."""
    return any(isinstance(note, ParameterInfo) for note in get_args(hint))


def _check_value(name: str, value: Any, hint: Any = None) -> None:
    """Refuse what no option can mean: a number that is not finite or beyond 64 bits, bytes that are no text."""
    if isinstance(value, list | tuple):
        for one in value:
            _check_value(name, one, hint)
        return
    is_argument = any(isinstance(note, ArgumentInfo) for note in get_args(hint))
    shown = name.upper() if is_argument else f"--{name.replace('_', '-')}"
    if isinstance(value, str | Path):
        check_text(str(value), shown)
    elif isinstance(value, float) and finite(value) is None:
        raise EegToolError(f"{shown} {value} is not a finite number.", "Give a number.")
    elif isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise EegToolError(f"{shown}: the number has more than 64 bits.", "Give a smaller one.")


_TYPERS: Final = "typer_context"
"""Name under which typer gives what it knows of a command line; no option may have it."""


def _command(
    name: str, settings_type: type, target: str, panel: str, cls: type[TyperCommand] | None = None
) -> None:
    """Make a command whose options are the fields of `settings_type` and whose body is `target`."""
    hints = annotations_of(settings_type)
    own = inspect.signature(settings_type).parameters.values()
    gathers = not all(_is_option(hints[p.name]) for p in own)

    def body(**options: Any) -> None:
        if gathers:
            options["further"] = options.pop(_TYPERS).meta["further"]
        try:
            for option, value in {**options, **options.get("further", {})}.items():
                _check_value(option, value, hints.get(option))
            load(target)(settings_type(**options))
        except EegToolError as error:
            print_error(error)
            raise typer.Exit(1) from None
        except OSError as error:  # a full disk, a folder that cannot be written
            if error.errno is None:  # a library's own
                raise
            print_error(of_system(error))
            raise typer.Exit(1) from None
        except MemoryError as error:
            reason = f"Memory ran out: {brief(error)}."
            print_error(EegToolError(reason, "Ask for less at a time, or end other programs."))
            raise typer.Exit(1) from None
        except KeyboardInterrupt as stop:
            signum = getattr(stop, "signum", 2)
            Console(stderr=True).print("interrupted")
            raise typer.Exit(128 + signum) from None

    # typer reads the signature: give it that of the dataclass, annotations resolved.
    made = {
        f.name: f.default_factory() for f in fields(settings_type) if callable(f.default_factory)
    }
    parameters = [
        p.replace(
            kind=p.KEYWORD_ONLY, annotation=hints[p.name], default=made.get(p.name, p.default)
        )
        for p in own
        if _is_option(hints[p.name])
    ]
    if gathers:
        kind = inspect.Parameter.KEYWORD_ONLY
        parameters.append(inspect.Parameter(_TYPERS, kind, annotation=typer.Context))
    body.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    body.__annotations__ = {p.name: p.annotation for p in parameters}
    body.__doc__ = settings_type.__doc__
    app.command(name, cls=FlagsCommand if gathers else cls, rich_help_panel=panel)(body)


_STEPS = "The five steps"
_command("prepare", PrepareSettings, "eegtool.prepare.step:run", _STEPS)
_command("extract", ExtractSettings, "eegtool.extract.step:run", _STEPS)
_command("finetune", FinetuneSettings, "eegtool.finetune.step:run", _STEPS)
_command("evaluate", EvaluateSettings, "eegtool.evaluate.step:run", _STEPS, cls=SpellingCommand)
_command("report", ReportSettings, "eegtool.report.step:run", _STEPS)
_command("stage", StageSettings, "eegtool.stage.step:run", "New nights")
_command("export", ExportSettings, "eegtool.finetune.export:run", "Share")
_command("inspect", InspectSettings, "eegtool.prepare.inspection:run", "Look")
_command("ask", AskSettings, "eegtool.evaluate.ask:run", "Look")
_command("doctor", DoctorSettings, "eegtool.doctor:run", "Look")
_command("demo", DemoSettings, "eegtool.demo:run", "Try it")


def print_error(error: EegToolError) -> None:
    """Print one error on the error stream: what is wrong, then how to fix it."""
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    console.print(Text("error: ", "bold red").append(error.what, "not bold default"))
    if error.fix:
        console.print(error.fix, markup=False)


def main() -> None:
    """Run the program; an error the user can fix ends with exit code 1, a wrong usage with 2."""
    # Threads that wait by spinning make torch several times slower on a CPU that does something
    # else besides. Must be set before torch is imported; the ranks of a training inherit it.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    app()
