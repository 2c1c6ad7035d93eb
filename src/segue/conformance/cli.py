"""``segue check``: which checks are made, what is written and printed, and the exit code."""

import argparse
import asyncio
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segue.conformance.options import CheckOptions

if TYPE_CHECKING:
    from segue.conformance.results import Difference

__all__ = ["ExitCode", "add_command", "run"]

_DESCRIPTION = """\
Check a TGI server, and Segue's client with it. Nothing is mocked: a live server answers, and faults (401, 404, 429,
5xx, cut streams) are injected by a proxy between the two. Without --container-url a server is started for the checks
and stopped afterwards.
"""
_EPILOG = """\
exit codes: 0 all well, 1 a check failed or differs from what is expected, 2 wrong command line, 3 the server cannot be
reached, 4 no server can be started here (no Docker, no image, no such model …), 130 interrupted

HF_TGI_DEBUG=1 shows requests and answers, without keys. HF_API_KEY_1, HF_API_KEY_2 and HF_API_KEY_3 are the keys for
the checks of several keys; without them keys are made up, which the server does not get to see.
"""


class ExitCode(IntEnum):
    OK = 0
    FAILED = 1
    UNREACHABLE = 3
    NO_ENVIRONMENT = 4


def add_command(commands: "argparse._SubParsersAction[Any]") -> Any:
    """The parser of ``segue check``, without flags: the launcher makes them of ``CheckOptions``."""
    return commands.add_parser(
        "check",
        help="check any TGI server, and the client with it",
        usage="segue check [OPTIONS]",
        description=_DESCRIPTION,
        epilog=_EPILOG,
    )


@dataclass(slots=True)
class _Section:
    """The checks of one kind, and what became of them."""

    title: str
    file: str
    shows_progress: bool
    lines: list[tuple[str, object, float]] = field(default_factory=list)
    differences: "Sequence[Difference] | None" = None

    @property
    def results(self) -> dict[str, Any]:
        return {name: result for name, result, _ in self.lines}

    def on_result(self, name: str, result: object, seconds: float) -> None:
        self.lines.append((name, result, seconds))
        if self.shows_progress:
            print(".", end="", file=sys.stderr, flush=True)


def run(options: CheckOptions, environ: Mapping[str, str]) -> int:
    """Make the checks, write the results, print the report; returns the exit code.

    Args:
        environ: Where HF_TGI_DEBUG and numbered keys are looked up, and what a server that is started gets.

    Raises ConfigError for expected results that cannot be read.
    """
    from segue.conformance.results import CONTAINER_FILE, STANDARD_FILE
    from segue.conformance.servers import CannotStartError, UnreachableError

    shows_progress = not options.json and sys.stderr.isatty()
    sections: list[_Section] = []
    try:
        if options.wants_standard:
            sections.append(_Section("Standard", STANDARD_FILE, shows_progress))
            _check_standard(options, environ, sections[-1])
        if options.wants_container:
            sections.append(_Section("Container", CONTAINER_FILE, shows_progress))
            _check_container(options, environ, sections[-1])
    except UnreachableError as error:
        return _fail(error, ExitCode.UNREACHABLE)
    except CannotStartError as error:
        return _fail(error, ExitCode.NO_ENVIRONMENT)
    if shows_progress:
        print(file=sys.stderr)
    return _conclude(options, sections)


def _fail(error: Exception, code: ExitCode) -> ExitCode:
    print(f"Error: {error}", file=sys.stderr)
    return code


def _check_standard(options: CheckOptions, environ: Mapping[str, str], section: _Section) -> None:
    from segue.conformance.servers import running_target
    from segue.conformance.standard import run_standard

    with running_target(options, environ) as target:
        asyncio.run(run_standard(target, on_result=section.on_result))


def _check_container(options: CheckOptions, environ: Mapping[str, str], section: _Section) -> None:
    from segue.conformance.container import CONTAINER, run_container
    from segue.conformance.servers import CannotStartError, deployment

    try:
        with deployment(options, environ) as deployed:
            run_container(deployed, on_result=section.on_result)
    except CannotStartError as error:
        if options.container:
            raise
        for check in CONTAINER:
            section.on_result(check.name, f"Skipped: {error}", 0.0)


def _conclude(options: CheckOptions, sections: Sequence[_Section]) -> ExitCode:
    from segue.conformance.check import verdict
    from segue.conformance.report import print_report
    from segue.conformance.results import Store, differences

    store = Store(Path(options.results_dir))
    for section in sections:
        store.collect(section.file, section.results)
        if options.update_expected:
            store.expect(section.file, section.results)
        expected = store.expected(section.file)
        section.differences = None if expected is None else differences(expected, section.results)
    if options.json:
        print(json.dumps({section.title.lower(): _as_json(section) for section in sections}, indent=2))
    else:
        print_report([(section.title, section.lines, section.differences) for section in sections])
    is_failed = any(verdict(result) == "Failed" for section in sections for result in section.results.values())
    is_different = any(section.differences for section in sections)
    return ExitCode.FAILED if is_failed or is_different else ExitCode.OK


def _as_json(section: _Section) -> dict[str, Any]:
    found = section.differences
    named = None if found is None else {each.check: {"expected": each.expected, "found": each.found} for each in found}
    return {"results": section.results, "differences": named}
