"""One field is one flag, one variable, one default: how values are found and how they are read."""

from dataclasses import dataclass

import pytest

from segue.core.options import OptionError, option, option_table, parse_size, resolve_options


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    size_tokens: int = option(3, "…", group="a")
    is_on: bool = option(True, "…", group="a")
    switch: bool = option(False, "…", group="a")
    names: tuple[str, ...] = option((), "…", group="b")
    sizes: tuple[int, ...] = option((1, 2), "…", group="b")
    kind: str | None = option(None, "…", group="b", choices=("x", "y"))
    token: str | None = option(None, "…", group="b", env=("TOKEN", "OLD_TOKEN"), flag=False, secret=True)


def resolve(given: dict[str, object] | None = None, **environ: str) -> Config:
    return resolve_options(Config, given or {}, environ, {})


def test_flag_beats_environment_beats_default() -> None:
    assert resolve().size_tokens == 3
    assert resolve(SIZE_TOKENS="4").size_tokens == 4
    assert resolve({"size_tokens": 5}, SIZE_TOKENS="4").size_tokens == 5


def test_an_empty_variable_is_unset() -> None:
    """A compose file passes `SIZE_TOKENS=` through when its own variable is not set."""
    assert resolve(SIZE_TOKENS="").size_tokens == 3


def test_the_first_set_variable_wins() -> None:
    assert resolve(OLD_TOKEN="b").token == "b"
    assert resolve(OLD_TOKEN="b", TOKEN="a").token == "a"


def test_lists_are_split_at_commas() -> None:
    config = resolve(NAMES="a, b,,c", SIZES="4,8")
    assert config.names == ("a", "b", "c")
    assert config.sizes == (4, 8)


@pytest.mark.parametrize(("text", "value"), [("true", True), ("0", False), ("No", False), ("ON", True)])
def test_booleans(text: str, value: bool) -> None:
    assert resolve(SWITCH=text, IS_ON=text) == resolve({"switch": value, "is_on": value})


@pytest.mark.parametrize(
    ("variable", "text", "message"),
    [
        ("SIZE_TOKENS", "many", "invalid value 'many' for 'SIZE_TOKENS'"),
        ("SWITCH", "maybe", "expected true or false"),
        ("KIND", "z", r"\[possible values: x, y\]"),
        ("SIZES", "1,two", "invalid value 'two' for 'SIZES'"),
    ],
)
def test_a_value_that_cannot_be_read(variable: str, text: str, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        resolve(**{variable: text})


def test_unknown_options_are_errors() -> None:
    with pytest.raises(OptionError, match="unknown option: size"):
        resolve({"size": 1})


def test_table_follows_the_fields() -> None:
    table = {entry.name: entry for entry in option_table(Config)}
    assert list(table) == ["size_tokens", "is_on", "switch", "names", "sizes", "kind", "token"]
    assert table["size_tokens"].flag == "--size-tokens"
    assert table["size_tokens"].env == ("SIZE_TOKENS",)
    assert table["switch"].is_switch
    assert not table["is_on"].is_switch
    assert table["sizes"].repeated
    assert table["sizes"].kind is int
    assert table["token"].flag is None


def test_secrets_do_not_show() -> None:
    assert "hunter2" not in repr(resolve(TOKEN="hunter2"))


@pytest.mark.parametrize(
    ("text", "size"), [("7", 7), ("512M", 512_000_000), ("2GiB", 2**31), ("1.5k", 1500), ("3 MB", 3_000_000)]
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "G", "two", "1T!", "-5M"])
def test_sizes_that_are_none(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_size(text)
