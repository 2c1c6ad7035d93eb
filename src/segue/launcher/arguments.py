"""Command lines made from config classes: one field, one flag."""

import argparse
import dataclasses
import shutil
from collections.abc import Callable, Collection, Mapping
from itertools import groupby
from typing import Any, NoReturn

from segue.core.options import Option, OptionError, option_table

__all__ = ["Parser", "add_options", "default_text", "describe", "given_options"]


class Parser(argparse.ArgumentParser):
    """Argparse with the house's defaults: nothing is abbreviated, and a wrong argument gets a short answer."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(allow_abbrev=False, formatter_class=_HelpFormatter, **settings)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}\n\nFor more information, try '{self.prog} --help'.\n")


class _HelpFormatter(argparse.RawDescriptionHelpFormatter):
    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=34, width=min(120, shutil.get_terminal_size().columns))


def add_options(
    parser: argparse.ArgumentParser,
    config_class: type,
    names: Collection[str] | None = None,
    defaults: Mapping[str, Any] | None = None,
) -> None:
    """A flag for every option of ``config_class``, in its groups. What is not given is absent from the namespace.

    ``names``: only these; ``defaults``: what the help text says instead of the class's own.
    """
    table = [entry for entry in option_table(config_class) if names is None or entry.name in names]
    for title, entries in groupby(table, key=lambda entry: entry.group):
        group = parser.add_argument_group(title)
        for entry in entries:
            if entry.flag is not None:
                default = (defaults or {}).get(entry.name, entry.default)
                _add_flag(group, dataclasses.replace(entry, default=default), entry.flag)


def given_options(namespace: argparse.Namespace, config_class: type) -> dict[str, Any]:
    """The flags that were given, by field name."""
    names = {entry.name for entry in option_table(config_class)}
    return {name: value for name, value in vars(namespace).items() if name in names}


def describe(entry: Option) -> str:
    """The help text with what else a user asks: the values, the variable, the default."""
    notes = []
    if entry.choices:
        notes.append(f"[possible values: {', '.join(entry.choices)}]")
    if entry.env:
        notes.append(f"[env: {', '.join(entry.env)}]")
    if entry.default not in (None, ()) and not entry.is_switch:
        notes.append(f"[default: {default_text(entry)}]")
    return " ".join((entry.help, *notes))


def default_text(entry: Option) -> str:
    """The default as one would type it."""
    if entry.kind is bool:
        return str(entry.default).lower()
    return ",".join(map(str, entry.default)) if entry.repeated else str(entry.default)


def _add_flag(group: "argparse._ArgumentGroup", entry: Option, flag: str) -> None:
    names = (entry.short, flag) if entry.short else (flag,)
    common: dict[str, Any] = {
        "dest": entry.name,
        "default": argparse.SUPPRESS,
        "help": describe(entry).replace("%", "%%"),
    }
    if entry.is_switch:
        group.add_argument(*names, action="store_true", **common)
    else:
        metavar = entry.metavar or ("N" if entry.kind is int else "VALUE")
        action = _Extend if entry.repeated else "store"
        group.add_argument(*names, action=action, type=_typed(entry, flag), metavar=metavar, **common)


class _Extend(argparse.Action):
    """Values of a repeated flag, one after the other."""

    def __call__(
        self, parser: object, namespace: argparse.Namespace, values: Any, option_string: object = None
    ) -> None:
        setattr(namespace, self.dest, (*getattr(namespace, self.dest, ()), *values))


def _typed(entry: Option, flag: str) -> Callable[[str], Any]:
    def parse(text: str) -> Any:
        try:
            return entry.parse(text, flag)
        except OptionError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return parse
