"""Results for people: a table, by rich where it is installed."""

import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib.util import find_spec

from segue.conformance.check import verdict
from segue.conformance.results import Difference

__all__ = ["Line", "Section", "print_report"]

Line = tuple[str, object, float]
"""A check's name, its result, the seconds it took."""
Section = tuple[str, Sequence[Line], Sequence[Difference] | None]
"""Title, lines, and differences from what is expected (None: nothing is)."""

_MARKS: Mapping[str, tuple[str, str]] = {
    "Success": ("ok", "green"),
    "Skipped": ("skip", "yellow"),
    "Failed": ("FAIL", "red"),
}


def print_report(sections: Sequence[Section], *, plain: bool | None = None) -> None:
    """``plain`` None: unless rich is installed and somebody looks at a terminal."""
    if plain is None:
        plain = find_spec("rich") is None or not sys.stdout.isatty()
    for title, lines, differences in sections:
        if plain:
            _print_plain(title, lines)
        else:
            _print_rich(title, lines)
        print(_summary(lines))
        for sentence in _sentences(differences):
            print(sentence)


def _cells(line: Line) -> tuple[str, str, str, str]:
    name, result, seconds = line
    text = str(result.get("status", "")) if isinstance(result, dict) else str(result)
    return _MARKS[verdict(result)][0], name, f"{seconds:.2f} s", text.partition(": ")[2]


def _print_plain(title: str, lines: Sequence[Line]) -> None:
    cells = [_cells(line) for line in lines]
    width = max((len(name) for _, name, _, _ in cells), default=0)
    print(title)
    for mark, name, seconds, why in cells:
        print(f"{mark:<4}  {name:<{width}}  {seconds:>9}  {why}".rstrip())


def _print_rich(title: str, lines: Sequence[Line]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for heading, justify in (("", "left"), ("check", "left"), ("time", "right"), ("why", "left")):
        table.add_column(heading, justify=justify, overflow="fold")  # type: ignore[arg-type]
    for line in lines:
        mark, *rest = _cells(line)
        table.add_row(Text(mark, _MARKS[verdict(line[1])][1]), *map(Text, rest))
    Console().print(table)


def _summary(lines: Sequence[Line]) -> str:
    counts = Counter(verdict(result) for _, result, _ in lines)
    seconds = sum(seconds for _, _, seconds in lines)
    return f"{counts['Success']} ok, {counts['Failed']} failed, {counts['Skipped']} skipped, in {seconds:.1f} s"


def _sentences(differences: Sequence[Difference] | None) -> list[str]:
    if differences is None:
        return ["Nothing to compare with: --update-expected makes these the expected results."]
    return [f"{each.check}: {each.found}, expected: {each.expected}" for each in differences]
