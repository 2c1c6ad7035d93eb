"""Runs the tests that carry a row of the acceptance list and prints the list: see ``scripts/parity``."""

import sys
from collections import defaultdict
from pathlib import Path

import pytest
from contract.acceptance import ROWS, Row, row_ids
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

__all__ = ["Outcomes", "main"]

_WORDS = {"pass": "green", "fail": "bold red", "missing": "bold red", "skipped": "yellow", "later": "dim"}


class Outcomes:
    """A pytest plugin: keeps the tests of the wanted rows, and what became of each."""

    def __init__(self, wanted: set[str]) -> None:
        self._wanted = wanted
        self.by_row: dict[str, dict[str, str]] = defaultdict(dict)
        """Row → test → the worst of its outcomes over all parameters."""

    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        kept = [item for item in items if self._wanted.intersection(row_ids(item.name))]
        config.hook.pytest_deselected(items=[item for item in items if item not in set(kept)])
        items[:] = kept

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" or not report.passed:
            name = report.nodeid.partition("[")[0]
            for row in row_ids(name.rpartition("::")[2]):
                self._note(row, name.removeprefix("tests/"), "pass" if report.passed else report.outcome)

    def _note(self, row: str, test: str, outcome: str) -> None:
        order = ("skipped", "pass", "failed")
        known = self.by_row[row].get(test, "skipped")
        self.by_row[row][test] = max(known, outcome, key=order.index)

    def status(self, row: Row) -> str:
        outcomes = self.by_row[row.id].values()
        if "failed" in outcomes:
            return "fail"
        if "pass" in outcomes:
            return "pass"
        if outcomes:
            return "skipped"
        return "missing" if row.is_required else "later"


def main(wanted: list[str]) -> int:
    """Exit code 1 where a required row is not shown. ``wanted``: ids, or the letters that begin them; all if empty."""
    rows = [row for row in ROWS if not wanted or {row.id, row.id.rstrip("0123456789")}.intersection(wanted)]
    outcomes = Outcomes({row.id for row in rows})
    root = Path(__file__).parent.parent
    pytest.main(["-q", "--rootdir", str(root), str(root / "tests")], plugins=[outcomes])
    statuses = {row.id: outcomes.status(row) for row in rows}
    console = Console(width=None if sys.stdout.isatty() else 200)
    console.print(_table(rows, statuses, outcomes))
    unshown = [row.id for row in rows if row.is_required and statuses[row.id] != "pass"]
    num_required = sum(row.is_required for row in rows)
    console.print(f"{num_required - len(unshown)} of {num_required} required rows pass.", *unshown)
    return 1 if unshown else 0


def _table(rows: list[Row], statuses: dict[str, str], outcomes: Outcomes) -> Table:
    table = Table("id", "group", "feature", "prio", "", Column("tests", overflow="fold"), title="TGI 3.3, row by row")
    for row in rows:
        status = statuses[row.id]
        tests = "\n".join(sorted(outcomes.by_row[row.id])) or row.left_out
        priority = f"{row.priority}*" if row.is_required and row.priority == "O" else row.priority
        style = _WORDS[status]
        table.add_row(row.id, row.group, escape(row.feature), priority, f"[{style}]{status}[/]", escape(tests))
    return table


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
