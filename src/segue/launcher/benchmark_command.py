"""``text-generation-benchmark``: measures an engine that runs, and prints TGI's tables."""

import argparse
import asyncio
import contextlib
import logging
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from segue._version import __version__
from segue.benchmark.options import BenchmarkOptions
from segue.core.config import ServeConfig, environment, resolve
from segue.core.errors import EngineDeadError
from segue.core.options import option_table, resolve_options
from segue.launcher.arguments import Parser, add_options, given_options
from segue.launcher.exit_codes import run_command

if TYPE_CHECKING:
    from segue.benchmark.measure import Benchmark, Results

__all__ = ["main"]

_HELP = """\
Measure prefill and decode of a running engine at several batch sizes. The engine is that of text-generation-launcher
(or segue serve) on this machine, or of text-generation-server serve; HTTP plays no part.
"""
_TEXT = (
    "It was a bright cold day in April, and all the clocks of the town were of one mind about the hour. The baker had "
    "opened early; two children counted loaves in the window, lost their count, and began again from the left. "
)
CONNECT_TIMEOUT_S = 10.0

logger = logging.getLogger(__name__)


def main(arguments: Sequence[str] | None = None) -> int:
    """``text-generation-benchmark``. Returns the exit code."""
    parser = Parser(prog="text-generation-benchmark", usage="%(prog)s -t MODEL [OPTIONS]", description=_HELP)
    version = f"text-generation-benchmark {__version__} (segue)"
    parser.add_argument("-V", "--version", action="version", version=version)
    add_options(parser, BenchmarkOptions)
    return run_command(_benchmark, parser.parse_args(arguments))


def _benchmark(namespace: argparse.Namespace) -> None:
    options = resolve_options(BenchmarkOptions, given_options(namespace, BenchmarkOptions), environment(), {})
    options.check()
    if not os.path.exists(options.master_shard_uds_path):
        raise _missing(options)
    results = asyncio.run(_measure(options, _text_ids(options)))

    from segue.benchmark.tables import render_tables

    if results.runs:
        print(render_tables(results))


def _text_ids(options: BenchmarkOptions) -> list[int]:
    """Of some text; what it says matters little, that it is text does. Raises as ``find_text``."""
    from segue.launcher.download import find_text
    from segue.launcher.logs import set_up_logging
    from segue.launcher.tokenizer_files import ensure_tokenizer
    from segue.text.tokenizer import Tokenizer

    set_up_logging("warn", json_output=False, stream=sys.stderr)
    hub = {"huggingface_hub_cache", "weights_cache_override", "hf_hub_offline", "hf_endpoint", "hf_token"}
    variables = {name for entry in option_table(ServeConfig) if entry.name in hub for name in entry.env}
    environ = {name: value for name, value in environment().items() if name in variables}
    revision = None if options.revision == "main" else options.revision
    source = find_text(resolve({"model_id": options.tokenizer_name, "revision": revision}, environ))
    folder = ensure_tokenizer(source.folder, trust_remote_code=False)
    return Tokenizer.from_folder(folder).encode(_TEXT, add_special_tokens=False)


def _missing(options: BenchmarkOptions) -> EngineDeadError:
    return EngineDeadError(
        f"no engine answers at {options.master_shard_uds_path}; start `text-generation-launcher` or "
        "`text-generation-server serve`, and say where by --master-shard-uds-path"
    )


async def _measure(options: BenchmarkOptions, text_ids: Sequence[int]) -> "Results":
    """What was measured, in part where somebody wanted to leave. Raises EngineDeadError when no engine answers."""
    from segue.benchmark.measure import Benchmark
    from segue.engine.remote import RemoteEngine

    missing = _missing(options)
    engine = RemoteEngine(f"ipc://{options.master_shard_uds_path}")
    try:
        try:
            await engine.connect(CONNECT_TIMEOUT_S)
        except EngineDeadError:
            raise missing from None
        benchmark = Benchmark(engine, options, text_ids)
        show = _show_picture if sys.stdout.isatty() and sys.stdin.isatty() else _show_bar
        await show(benchmark)
        return benchmark.results
    finally:
        await engine.close()


async def _show_bar(benchmark: "Benchmark") -> None:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    # No thread of its own refreshes it: that would share the core with the engine that is measured.
    with Progress(*columns, console=Console(stderr=True), auto_refresh=False) as progress:
        task = progress.add_task("Benchmark", total=benchmark.results.num_all)

        def advance() -> None:
            progress.update(task, completed=benchmark.results.num_done, refresh=True)

        await benchmark.run(advance)


async def _show_picture(benchmark: "Benchmark") -> None:
    """Until somebody leaves; the picture is drawn between runs and after keys, not while steps are timed."""
    from rich.live import Live

    from segue.benchmark.picture import Picture
    from segue.benchmark.terminal import keys

    picture = Picture(benchmark.results)
    left = asyncio.Event()
    with Live(picture.render(), screen=True, auto_refresh=False) as live:

        def draw() -> None:
            live.update(picture.render(), refresh=True)

        def press(key: str) -> None:
            if picture.press(key):
                draw()
            else:
                left.set()

        with keys(press):
            running = asyncio.create_task(benchmark.run(draw))
            leaving = asyncio.create_task(left.wait())
            try:
                await asyncio.wait((running, leaving), return_when=asyncio.FIRST_COMPLETED)
                if running.done():
                    running.result()
                    picture.is_done = True
                    draw()
                    await leaving
            finally:
                for task in (running, leaving):
                    task.cancel()
                    with contextlib.suppress(asyncio.CancelledError):
                        await task
