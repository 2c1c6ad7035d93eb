"""The live picture of a benchmark in a terminal, with TGI's panels and keys. Draws; measures nothing."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.console import Group
from rich.layout import Layout
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.text import Text

from segue.benchmark.measure import Results, Run
from segue.benchmark.plots import histogram, scatter
from segue.benchmark.statistics import Summary, summarize
from segue.benchmark.tables import decode_latencies

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType, RenderResult

__all__ = ["Picture"]

MAX_ZOOM = 5


@dataclass(slots=True)
class Picture:
    """What is shown: a tab a batch size. Keys change it; ``render`` draws it as it is now."""

    results: Results
    tab: int = 0
    zoom: int = 1
    is_done: bool = False
    follows: bool = True
    """The tab of the batch size that runs is shown, until a key chooses another."""

    def press(self, key: str) -> bool:
        """Take a key; False when it means to leave."""
        num_tabs = len(self.results.options.batch_size)
        match key:
            case "q" | "\x03":
                return False
            case "right" | "tab":
                self.tab, self.follows = (self.tab + 1) % num_tabs, False
            case "left":
                self.tab, self.follows = (self.tab - 1) % num_tabs, False
            case "+":
                self.zoom = min(MAX_ZOOM, self.zoom + 1)
            case "-":
                self.zoom = max(1, self.zoom - 1)
        return True

    def render(self) -> Layout:
        if self.follows and self.results.runs:
            sizes = self.results.options.batch_size
            self.tab = sizes.index(next(reversed(self.results.runs)))
        layout = Layout()
        middle = Layout(name="middle", ratio=3)
        middle.split_row(*(Layout(self._step(name)) for name in ("Prefill", "Decode")))
        bottom = Layout(name="bottom", ratio=2)
        bottom.split_row(*(Layout(self._chart(name)) for name in ("Prefill", "Decode")))
        layout.split_column(
            Layout(self._title(), size=1),
            Layout(self._tabs(), size=3),
            Layout(self._progress(), size=4),
            middle,
            bottom,
            Layout(Text("← | tab | →: batch size    + | -: zoom    q | Ctrl-C: quit", justify="center"), size=1),
        )
        return layout

    def _title(self) -> Text:
        options = self.results.options
        text = (
            f" Model: {options.tokenizer_name} | Sequence Length: {options.sequence_length} "
            f"| Decode Length: {options.decode_length}"
        )
        return Text(text, style="bold", overflow="ellipsis", no_wrap=True)

    def _tabs(self) -> Panel:
        text = Text()
        for i, size in enumerate(self.results.options.batch_size):
            text.append(f" {size} ", style="reverse" if i == self.tab else "")
            text.append(" ")
        return Panel(text, title="Batch Size")

    def _progress(self) -> Panel:
        results = self.results
        runs = results.options.runs
        current = len(next(reversed(results.runs.values()), []))
        state = "done" if self.is_done else "running"
        total = Text(f"Total  {results.num_done}/{results.num_all} {state}")
        batch = Text(f"Batch  {current}/{runs}")
        return Panel(
            Group(
                _beside(total, ProgressBar(total=max(1, results.num_all), completed=results.num_done)),
                _beside(batch, ProgressBar(total=runs, completed=current)),
            )
        )

    def _step(self, name: str) -> Panel:
        runs = self.results.runs.get(self.results.options.batch_size[self.tab], [])
        if not runs:
            return Panel(Text("no run yet", style="dim"), title=name)
        latencies = _latencies(name, runs)
        times, rates = summarize([1e3 * each for each in latencies]), summarize([_rate(name, run) for run in runs])
        kind = "Latency" if name == "Prefill" else "Latency of a token"
        lines = (
            f"Throughput  {_range(rates)} tokens/secs",
            f"{kind}  {_range(times)} ms",
            f"p50 {times.p50:.2f}  p90 {times.p90:.2f}  p99 {times.p99:.2f} ms",
        )
        bars = _Plot(lambda width, height: self._bars(latencies, width, height))
        return Panel(Group(Text("\n".join(lines), no_wrap=True, overflow="ellipsis"), bars), title=name)

    def _bars(self, latencies: Sequence[float], width: int, height: int) -> list[str]:
        values = [1e3 * each for each in latencies]
        return histogram(values, num_bins=4 * self.zoom, width=width, height=max(1, height - 6))

    def _chart(self, name: str) -> Panel:
        """Where each batch size stands between speed for one and speed for all: its averages."""
        points = [
            (1e3 * summarize(_latencies(name, runs)).average, summarize([_rate(name, run) for run in runs]).average)
            for runs in self.results.runs.values()
        ]
        labels = list(map(str, self.results.runs))
        plot = _Plot(
            lambda width, height: scatter(
                points, labels, width=width, height=height, x_label="latency (ms)", y_label="tokens/secs"
            )
        )
        return Panel(plot, title=f"{name}: throughput over latency")


def _range(summary: Summary) -> str:
    return f"average {summary.average:.2f} ({summary.lowest:.2f} to {summary.highest:.2f})"


def _latencies(name: str, runs: Sequence[Run]) -> list[float]:
    return [run.prefill_s for run in runs] if name == "Prefill" else decode_latencies(runs)


def _rate(name: str, run: Run) -> float:
    return run.prefill_rate if name == "Prefill" else run.decode_rate


def _beside(text: Text, bar: ProgressBar) -> "RenderableType":
    from rich.table import Table

    row = Table.grid(expand=True)
    row.add_column(width=24)
    row.add_column()
    row.add_row(text, bar)
    return row


class _Plot:
    """Lines made for the room there is."""

    def __init__(self, draw: Callable[[int, int], list[str]]) -> None:
        self._draw = draw

    def __rich_console__(self, console: "Console", options: "ConsoleOptions") -> "RenderResult":
        lines = self._draw(options.max_width, options.height or 12)
        yield Text("\n".join(lines), no_wrap=True, overflow="crop")
