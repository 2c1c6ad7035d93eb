"""TGI's three tables."""

from segue.benchmark.measure import Results, Run
from segue.benchmark.options import BenchmarkOptions
from segue.benchmark.statistics import percentile, summarize
from segue.benchmark.tables import markdown, render_tables


def results() -> Results:
    found = Results(BenchmarkOptions(tokenizer_name="some/model", batch_size=(1, 2), runs=2, temperature=0.5))
    for prefill_s in (0.01, 0.03):
        found.add(Run(2, prefill_s, (0.002, 0.004), 2))
    return found


def test_B3_parameters() -> None:
    parameters, _, _ = render_tables(results()).split("\n\n")
    lines = parameters.splitlines()
    assert lines[:3] == [
        "| Parameter          | Value      |",
        "|--------------------|------------|",
        "| Model              | some/model |",
    ]
    names = [line.split("|")[1].strip() for line in lines[2:]]
    assert names == [
        "Model", "Sequence Length", "Decode Length", "Top N Tokens", "N Runs", "Warmups", "Temperature", "Top K",
        "Top P", "Typical P", "Repetition Penalty", "Frequency Penalty", "Watermark", "Do Sample",
    ]  # fmt: skip
    assert "| Temperature        | 0.5        |" in lines
    assert "| Watermark          | false      |" in lines


def test_B3_latency_and_throughput() -> None:
    _, latency, throughput = render_tables(results()).split("\n\n")
    assert latency == (
        "| Step           | Batch Size | Average  | Lowest   | Highest  | p50      | p90      | p99      |\n"
        "|----------------|------------|----------|----------|----------|----------|----------|----------|\n"
        "| Prefill        | 2          | 20.00 ms | 10.00 ms | 30.00 ms | 10.00 ms | 30.00 ms | 30.00 ms |\n"
        "| Decode (token) | 2          | 3.00 ms  | 2.00 ms  | 4.00 ms  | 2.00 ms  | 4.00 ms  | 4.00 ms  |\n"
        "| Decode (total) | 2          | 6.00 ms  | 6.00 ms  | 6.00 ms  | 6.00 ms  | 6.00 ms  | 6.00 ms  |"
    )
    assert throughput == (
        "| Step    | Batch Size | Average            | Lowest             | Highest            |\n"
        "|---------|------------|--------------------|--------------------|--------------------|\n"
        "| Prefill | 2          | 133.33 tokens/secs | 66.67 tokens/secs  | 200.00 tokens/secs |\n"
        "| Decode  | 2          | 666.67 tokens/secs | 666.67 tokens/secs | 666.67 tokens/secs |"
    )


def test_columns_are_as_wide_as_their_cells() -> None:
    assert markdown(("a", "long"), [("wide", "b")]).splitlines() == [
        "| a    | long |",
        "|------|------|",
        "| wide | b    |",
    ]


def test_summary() -> None:
    summary = summarize([float(value) for value in range(100, 0, -1)])
    assert (summary.average, summary.lowest, summary.highest) == (50.5, 1, 100)
    assert (summary.p50, summary.p90, summary.p99) == (50, 90, 99)
    assert percentile([3.0], 50) == 3.0
