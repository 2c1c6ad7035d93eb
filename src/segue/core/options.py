"""Options of a command, defined once: a dataclass field is a flag, an environment variable, a default and a help text.

A config class is a frozen dataclass whose fields are made by :func:`option`. :func:`option_table` reads the fields
back, the command line is generated from them, and :func:`resolve_options` makes the object: flag, then environment,
then default. An empty environment variable counts as unset, so that a compose file may pass one through.
"""

import dataclasses
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from segue.core.errors import ConfigError

__all__ = ["Option", "OptionError", "option", "option_table", "parse_size", "resolve_options"]

ConfigT = TypeVar("ConfigT")

_TRUE = frozenset({"true", "1", "yes", "on"})
_FALSE = frozenset({"false", "0", "no", "off"})
_SIZE_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "ki": 2**10, "mi": 2**20, "gi": 2**30}


class OptionError(ConfigError):
    """A flag's or a variable's value cannot be read: the command was typed wrongly (exit code 2)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """One field of a config class, as the command line needs it."""

    name: str
    kind: type
    """bool, int, float or str: the type of one value."""
    default: Any
    help: str
    group: str
    env: tuple[str, ...]
    """Names of environment variables, the first that is set wins; empty: none."""
    flag: str | None
    """``--kebab-case``; None: set by the environment only (secrets, which must not show in process lists)."""
    short: str | None
    choices: tuple[str, ...]
    repeated: bool
    """A tuple: the flag may be repeated, and one value may hold several, separated by commas."""
    optional: bool
    parser: Callable[[str], Any] | None
    metavar: str | None

    @property
    def is_switch(self) -> bool:
        """The flag takes no value; its presence means True."""
        return self.kind is bool and self.default is False

    def parse(self, text: str, source: str) -> Any:
        """The value that ``text`` stands for. Raises OptionError naming ``source`` (the flag or the variable)."""
        if self.repeated:
            return tuple(self._parse_one(part.strip(), source) for part in text.split(",") if part.strip())
        return self._parse_one(text, source)

    def _parse_one(self, text: str, source: str) -> Any:
        if self.choices and text not in self.choices:
            raise OptionError(f"invalid value '{text}' for '{source}' [possible values: {', '.join(self.choices)}]")
        try:
            if self.parser is not None:
                return self.parser(text)
            return _parse_bool(text) if self.kind is bool else self.kind(text)
        except ValueError as error:
            raise OptionError(f"invalid value '{text}' for '{source}': {error}") from None


def _parse_bool(text: str) -> bool:
    lowered = text.lower()
    if lowered in _TRUE or lowered in _FALSE:
        return lowered in _TRUE
    raise ValueError("expected true or false")


def parse_size(text: str) -> int:
    """Bytes from ``512M``, ``2G``, ``1.5GiB`` or a plain number. Raises ValueError."""
    number = text.strip().lower().removesuffix("b")
    digits = number.rstrip("kmgi")
    unit = _SIZE_UNITS.get(number[len(digits) :])
    if unit is None:
        raise ValueError("expected a size such as 512M or 2GiB")
    size = int(float(digits) * unit)
    if size < 0:
        raise ValueError("a size cannot be negative")
    return size


def option(
    default: Any,
    help: str,
    *,
    group: str,
    env: str | tuple[str, ...] | None = None,
    flag: bool = True,
    short: str | None = None,
    choices: tuple[str, ...] = (),
    parser: Callable[[str], Any] | None = None,
    metavar: str | None = None,
    secret: bool = False,
) -> Any:
    """A dataclass field that is an option. ``env=None`` means UPPER_SNAKE of the field's name, ``()`` no variable."""
    env_names = (env,) if isinstance(env, str) else env
    metadata = {
        "help": help,
        "group": group,
        "env": env_names,
        "flag": flag,
        "short": short,
        "choices": choices,
        "parser": parser,
        "metavar": metavar,
    }
    return dataclasses.field(default=default, repr=not secret, metadata=metadata)


def option_table(config_class: type) -> tuple[Option, ...]:
    """The options of a config class, in the order of its fields."""
    hints = typing.get_type_hints(config_class)
    return tuple(_read_field(field, hints[field.name]) for field in dataclasses.fields(config_class))


def _read_field(field: "dataclasses.Field[Any]", hint: Any) -> Option:
    optional = False
    if isinstance(hint, types.UnionType):
        members = [member for member in typing.get_args(hint) if member is not type(None)]
        optional = len(members) < len(typing.get_args(hint))
        (hint,) = members
    repeated = typing.get_origin(hint) is tuple
    kind = typing.get_args(hint)[0] if repeated else hint
    assert kind in (bool, int, float, str), f"{field.name}: an option cannot be a {hint}"
    meta = field.metadata
    return Option(
        name=field.name,
        kind=kind,
        default=field.default,
        help=meta["help"],
        group=meta["group"],
        env=(field.name.upper(),) if meta["env"] is None else meta["env"],
        flag="--" + field.name.replace("_", "-") if meta["flag"] else None,
        short=meta["short"],
        choices=meta["choices"],
        repeated=repeated,
        optional=optional,
        parser=meta["parser"],
        metavar=meta["metavar"],
    )


def resolve_options(
    config_class: type[ConfigT],
    given: Mapping[str, Any],
    environ: Mapping[str, str],
    defaults: Mapping[str, Any],
) -> ConfigT:
    """``given`` holds parsed flags by field name (absent: not given); ``defaults`` replace those of the class.

    Raises OptionError for a name that is not a field and for a variable that cannot be read.
    """
    table = option_table(config_class)
    unknown = (given.keys() | defaults.keys()) - {entry.name for entry in table}
    if unknown:
        raise OptionError(f"unknown option: {', '.join(sorted(unknown))}")
    values = dict(defaults)
    for entry in table:
        variable = next((name for name in entry.env if environ.get(name)), None)
        if entry.name in given:
            values[entry.name] = given[entry.name]
        elif variable is not None:
            values[entry.name] = entry.parse(environ[variable], variable)
    return config_class(**values)
