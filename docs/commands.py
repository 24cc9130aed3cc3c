"""The directive ``commands``: every command with its options, from the command line itself."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Final, Literal, Union, get_args, get_origin

import typer
from docutils import nodes
from rich.text import Text
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from eegtool import cli

_VALUES: Final = {int: "N", float: "NUMBER", str: "TEXT", Path: "PATH"}


def value_of(annotation: Any) -> str:
    """Return what stands behind an option: its choices, or the kind of value; nothing behind a switch."""
    if get_origin(annotation) in (Annotated, list):
        return value_of(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return value_of(next(one for one in get_args(annotation) if one is not type(None)))
    if get_origin(annotation) is Literal:
        return "|".join(map(str, get_args(annotation)))
    return _VALUES.get(annotation, "")


def default_of(option: Any) -> str:
    """Return the default as a reader sees it; empty where there is none, or it is that of a switch."""
    if isinstance(shown := option.show_default, str):
        return shown
    value = option.default() if callable(option.default) else option.default
    if not shown or value is None or value == "" or isinstance(value, bool):
        return ""
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def spelling_of(parameter: Any, value: str) -> str:
    """Return a parameter as it is typed: ``--size INTEGER``, or ``[RECORDINGS]...``."""
    if parameter.param_type_name == "argument":
        name = (parameter.metavar or parameter.name.upper()).strip("[]")
        name += "..." if parameter.nargs == -1 and not name.endswith("...") else ""
        return name if parameter.required else f"[{name}]"
    names = ", ".join([*parameter.opts, *parameter.secondary_opts])
    return f"{names} {value}".strip()


class Commands(SphinxDirective):
    """A section for each command."""

    def run(self) -> list[nodes.Node]:
        """Return the sections; the page is read again at every build, as the options may have changed."""
        self.env.note_reread()
        tree: Any = typer.main.get_command(cli.app)
        typed = {
            c.name: inspect.signature(c.callback).parameters for c in cli.app.registered_commands
        }
        return [
            self._section(name, command, typed[name]) for name, command in tree.commands.items()
        ]

    def _section(self, name: str, command: Any, typed: Mapping[str, Any]) -> nodes.section:
        """Return the section of one command: what it does, and its options by their panels."""
        section = nodes.section(ids=[name], names=[name])
        section += nodes.title(text=f"eegvlm {name}")
        section += nodes.paragraph(text=(command.help or "").strip())
        panels: dict[str, nodes.definition_list] = {}
        for parameter in command.params:
            if not parameter.hidden:
                argument = parameter.param_type_name == "argument"
                panel = parameter.rich_help_panel or ("Arguments" if argument else "Options")
                panels.setdefault(panel, nodes.definition_list())
                value = value_of(typed[parameter.name].annotation)
                panels[panel] += _item(parameter, value)
        for panel, items in panels.items():
            section += nodes.rubric(text=panel)
            section += items
        self.state.document.note_implicit_target(section, section)
        return section


def _item(parameter: Any, value: str) -> nodes.definition_list_item:
    """Return the entry of one option: its spelling, its help, its default."""
    text = Text.from_markup(parameter.help or "").plain
    if parameter.required:
        text += " Required."
    paragraph = nodes.paragraph(text=text.strip())
    if default := default_of(parameter):
        paragraph += [nodes.Text(" Default: "), nodes.literal(text=default), nodes.Text(".")]
    term = nodes.term("", "", nodes.literal(text=spelling_of(parameter, value)))
    return nodes.definition_list_item("", term, nodes.definition("", paragraph))


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directive."""
    app.add_directive("commands", Commands)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
