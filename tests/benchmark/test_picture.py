"""The picture, its keys, and its plots."""

import io

import pytest
from rich.console import Console

from segue.benchmark.measure import Results, Run
from segue.benchmark.options import BenchmarkOptions
from segue.benchmark.picture import MAX_ZOOM, Picture
from segue.benchmark.plots import histogram, scatter
from segue.benchmark.terminal import parse_keys


def picture(num_runs: int = 3) -> Picture:
    results = Results(BenchmarkOptions(tokenizer_name="some/model", batch_size=(1, 2, 16), runs=4))
    for size in (1, 2):
        for i in range(num_runs):
            results.add(Run(size, 0.01 * (i + 1), (0.002 * size, 0.004), 2))
    return Picture(results)


def drawn(shown: Picture, width: int = 120, height: int = 40) -> str:
    console = Console(file=io.StringIO(), width=width, height=height, force_terminal=False)
    console.print(shown.render())
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_B3_what_is_shown() -> None:
    text = drawn(picture())
    assert "Model: some/model | Sequence Length: 10 | Decode Length: 8" in text
    for words in (
        "Batch Size",
        "Total  6/12 running",
        "Batch  3/4",
        "Prefill",
        "Decode",
        "tokens/secs",
        "latency (ms)",
    ):
        assert words in text
    assert "average 20.00 (10.00 to 30.00) ms" in text
    assert "p50 20.00  p90 30.00  p99 30.00 ms" in text
    assert "•1" in text
    assert "•2" in text
    assert "+ | -: zoom" in text


@pytest.mark.parametrize(("width", "height"), [(20, 5), (40, 12), (300, 100)])
def test_B3_any_terminal(width: int, height: int) -> None:
    assert drawn(picture(), width, height)
    assert "no run yet" in drawn(picture(num_runs=0))


def test_B3_keys_choose_tabs_and_zoom() -> None:
    shown = picture()
    drawn(shown)
    assert shown.tab == 1, "the batch size that runs is shown"
    assert shown.press("right")
    assert shown.tab == 2
    assert "no run yet" in drawn(shown)
    shown.press("tab")
    assert shown.tab == 0
    shown.press("left")
    assert shown.tab == 2
    for _ in range(10):
        shown.press("+")
    assert shown.zoom == MAX_ZOOM
    for _ in range(10):
        shown.press("-")
    assert shown.zoom == 1
    assert shown.press("x")
    assert not shown.press("q")
    assert not shown.press("\x03")


def test_B3_keys_of_a_terminal() -> None:
    assert parse_keys("\x1b[C\x1bOD\tq+") == ["right", "left", "tab", "q", "+"]
    assert parse_keys("") == []


def test_histogram() -> None:
    lines = histogram([1, 1, 1, 1, 5], num_bins=2, width=40, height=2)
    assert lines == [
        "███████        ",
        "███████ ▄▄▄▄▄▄▄",
        "  1.00    3.00 ",
        "   4       1   ",
        "             ms",
    ]
    assert histogram([], num_bins=2, width=40, height=2) == []
    assert len(histogram([2.0, 2.0], num_bins=20, width=17, height=1)[0]) == 15


def test_scatter() -> None:
    lines = scatter([(1, 10), (2, 0)], ["1", "32"], width=22, height=6, x_label="ms", y_label="rate")
    assert lines == [
        "rate",
        "      10 │      •1    ",
        "         │            ",
        "       0 │         •32",
        "         └────────────",
        "          0    ms    2",
    ]
    assert scatter([], [], width=22, height=6, x_label="ms", y_label="rate") == []
    assert scatter([(1, 1)], ["1"], width=10, height=6, x_label="ms", y_label="rate") == []
