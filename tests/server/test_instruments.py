from itertools import pairwise

import pytest
from prometheus_client.parser import text_string_to_metric_families

from segue.server.instruments import Counter, Gauge, Histogram, Summary, exposition, geometric, linear


def test_the_text_byte_for_byte() -> None:
    counter = Counter("c", "A counter", "kind", ("a", "b"))
    counter.add(2, "a")
    gauge = Gauge("g", "A gauge")
    gauge.value = 1.5
    histogram = Histogram("h", "A histogram", [0.5, 1, 2])
    for amount in (0.5, 0.6, 7):
        histogram.observe(amount)
    assert exposition([counter, gauge, histogram]).decode() == (
        "# HELP c A counter\n# TYPE c counter\n"
        'c{kind="a"} 2\nc{kind="b"} 0\n'
        "# HELP g A gauge\n# TYPE g gauge\ng 1.5\n"
        "# HELP h A histogram\n# TYPE h histogram\n"
        'h_bucket{le="0.5"} 1\nh_bucket{le="1"} 2\nh_bucket{le="2"} 2\nh_bucket{le="+Inf"} 3\n'
        "h_sum 8.1\nh_count 3\n"
    )


def test_a_histogram_with_a_label() -> None:
    histogram = Histogram("h", "A histogram", [1], "method", ("x", "y"))
    histogram.observe(3, "y")
    samples = {name + labels: value for name, labels, value in histogram.samples()}
    assert samples['_bucket{method="y",le="+Inf"}'] == 1
    assert samples['_count{method="x"}'] == 0
    assert samples['_sum{method="y"}'] == 3


def test_a_wrong_label_is_an_error() -> None:
    with pytest.raises(KeyError):
        Counter("c", "", "kind", ("a",)).add(1, "b")


def test_quantiles_of_a_summary() -> None:
    now = 0.0
    summary = Summary("s", "", (0, 0.5, 0.9, 1), window_s=60, clock=lambda: now)
    assert [value for name, _, value in summary.samples() if not name] == [0, 0, 0, 0]
    for amount in range(1, 11):
        summary.observe(amount)
    assert [value for name, _, value in summary.samples() if not name] == [1, 5, 9, 10]
    assert {name: value for name, _, value in summary.samples() if name} == {"_sum": 55, "_count": 10}


def test_a_summary_forgets() -> None:
    now = 0.0
    summary = Summary("s", "", (1,), window_s=60, clock=lambda: now)
    summary.observe(9)
    now = 31.0
    summary.observe(2)
    assert next(iter(summary.samples()))[2] == 9
    now = 62.0
    summary.observe(2)
    assert next(iter(summary.samples()))[2] == 2
    now = 500.0
    assert next(iter(summary.samples()))[2] == 0
    assert [value for name, _, value in summary.samples() if name == "_count"] == [3]


def test_bounds() -> None:
    bounds = geometric(0.0001, 1.5, 35)
    assert len(bounds) == 35
    assert bounds[0] == pytest.approx(0.00015)
    assert bounds[-1] == pytest.approx(145.61, abs=0.01)
    assert all(later / earlier == pytest.approx(1.5) for earlier, later in pairwise(bounds))
    assert linear(200, 100)[:2] == [2, 4]
    assert linear(200, 100)[-1] == 200


def test_a_prometheus_parser_reads_it() -> None:
    summary = Summary("s", "Help, with a comma", (0.5,))
    summary.observe(4)
    [family] = text_string_to_metric_families(exposition([summary]).decode())
    assert (family.name, family.type) == ("s", "summary")
    assert [sample.value for sample in family.samples] == [4, 4, 1]
