"""TGI's three tables, in Markdown: parameters, latency, throughput."""

from collections.abc import Callable, Iterable, Sequence
from itertools import chain

from segue.benchmark.measure import Results, Run
from segue.benchmark.statistics import Summary, summarize

__all__ = ["decode_latencies", "markdown", "render_tables"]


def render_tables(results: Results) -> str:
    """Of the runs that were made; a batch size without any has no rows."""
    return "\n\n".join(
        (
            markdown(("Parameter", "Value"), _parameters(results)),
            markdown(("Step", "Batch Size", "Average", "Lowest", "Highest", "p50", "p90", "p99"), _latencies(results)),
            markdown(("Step", "Batch Size", "Average", "Lowest", "Highest"), _rates(results)),
        )
    )


def decode_latencies(runs: Iterable[Run]) -> list[float]:
    """Of every token of all runs, in seconds."""
    return list(chain.from_iterable(run.decode_s for run in runs))


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table whose columns are as wide as their widest cell."""
    table = [header, *rows]
    widths = [max(len(row[i]) for row in table) for i in range(len(header))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in table
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def _parameters(results: Results) -> list[tuple[str, str]]:
    options = results.options
    rows = (
        ("Model", options.tokenizer_name),
        ("Sequence Length", options.sequence_length),
        ("Decode Length", options.decode_length),
        ("Top N Tokens", options.top_n_tokens),
        ("N Runs", options.runs),
        ("Warmups", options.warmups),
        ("Temperature", options.temperature),
        ("Top K", options.top_k),
        ("Top P", options.top_p),
        ("Typical P", options.typical_p),
        ("Repetition Penalty", options.repetition_penalty),
        ("Frequency Penalty", options.frequency_penalty),
        ("Watermark", options.watermark),
        ("Do Sample", options.do_sample),
    )
    return [(name, str(value).lower() if isinstance(value, bool) else str(value)) for name, value in rows]


def _latencies(results: Results) -> list[tuple[str, ...]]:
    kinds: tuple[tuple[str, Callable[[list[Run]], list[float]]], ...] = (
        ("Prefill", lambda runs: [run.prefill_s for run in runs]),
        ("Decode (token)", decode_latencies),
        ("Decode (total)", lambda runs: [sum(run.decode_s) for run in runs]),
    )
    return [
        (name, str(batch_size), *_latency_cells(summarize(values(runs))))
        for name, values in kinds
        for batch_size, runs in results.runs.items()
    ]


def _latency_cells(summary: Summary) -> list[str]:
    values = (summary.average, summary.lowest, summary.highest, summary.p50, summary.p90, summary.p99)
    return [f"{value * 1e3:.2f} ms" for value in values]


def _rates(results: Results) -> list[tuple[str, ...]]:
    kinds: tuple[tuple[str, Callable[[Run], float]], ...] = (
        ("Prefill", lambda run: run.prefill_rate),
        ("Decode", lambda run: run.decode_rate),
    )
    rows = []
    for name, rate in kinds:
        for batch_size, runs in results.runs.items():
            summary = summarize([rate(run) for run in runs])
            cells = (f"{value:.2f} tokens/secs" for value in (summary.average, summary.lowest, summary.highest))
            rows.append((name, str(batch_size), *cells))
    return rows
