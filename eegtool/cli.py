"""The command line: options come from the settings classes, bodies import their step when they run.

Nothing heavier than typer and rich is imported here, so that ``eegvlm --help`` is instant.
"""

from __future__ import annotations

import inspect
import os
from dataclasses import fields
from typing import Annotated, Any, get_type_hints

import typer
from rich.console import Console
from rich.text import Text

from eegtool import __version__
from eegtool.core import settings
from eegtool.core.errors import EegToolError
from eegtool.core.registry import load

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


def _command(name: str, settings_type: type, target: str, panel: str) -> None:
    """Make a command whose options are the fields of `settings_type` and whose body is `target`."""
    hints = get_type_hints(settings_type, include_extras=True)
    own = inspect.signature(settings_type).parameters.values()

    def body(**options: Any) -> None:
        try:
            load(target)(settings_type(**options))
        except EegToolError as error:
            print_error(error)
            raise typer.Exit(1) from None
        except OSError as error:  # a full disk, a folder that cannot be written
            if error.filename is None:
                raise
            reason = f"{error.filename}: {error.strerror}."
            print_error(EegToolError(reason, "Check the path, its permissions and the disk."))
            raise typer.Exit(1) from None
        except KeyboardInterrupt:
            Console(stderr=True).print("interrupted")
            raise typer.Exit(130) from None

    # typer reads the signature: give it that of the dataclass, annotations resolved.
    made = {
        f.name: f.default_factory() for f in fields(settings_type) if callable(f.default_factory)
    }
    parameters = [
        p.replace(
            kind=p.KEYWORD_ONLY, annotation=hints[p.name], default=made.get(p.name, p.default)
        )
        for p in own
    ]
    body.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    body.__annotations__ = {p.name: hints[p.name] for p in parameters}
    body.__doc__ = settings_type.__doc__
    app.command(name, rich_help_panel=panel)(body)


_STEPS = "The five steps"
_command("prepare", settings.PrepareSettings, "eegtool.prepare.step:run", _STEPS)
_command("extract", settings.ExtractSettings, "eegtool.extract.step:run", _STEPS)
_command("finetune", settings.FinetuneSettings, "eegtool.finetune.step:run", _STEPS)
_command("evaluate", settings.EvaluateSettings, "eegtool.evaluate.step:run", _STEPS)
_command("report", settings.ReportSettings, "eegtool.report.step:run", _STEPS)
_command("inspect", settings.InspectSettings, "eegtool.prepare.inspection:run", "Look")
_command("demo", settings.DemoSettings, "eegtool.demo:run", "Try it")


def print_error(error: EegToolError) -> None:
    """Print one error on the error stream: what is wrong, then how to mend it."""
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    console.print(Text("error: ", "bold red").append(error.what, "not bold default"))
    if error.fix:
        console.print(error.fix, markup=False)


def main() -> None:
    """Run the program; an error the user can mend ends with exit code 1, a wrong usage with 2."""
    # Threads that wait by spinning make torch several times slower on a CPU that does something
    # else besides. Must be set before torch is imported; the ranks of a training inherit it.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    app()
