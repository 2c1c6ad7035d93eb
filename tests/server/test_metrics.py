"""TGI's metrics: names, types, labels, buckets (spec 5.3), and when they move."""

import asyncio
from collections.abc import Callable

import pytest
from prometheus_client.parser import text_string_to_metric_families
from serving import INFO, Serving, fails, says

from segue.core.output import StepStats
from segue.server.metrics import Metrics

Serve = Callable[..., Serving]

DURATION_BUCKETS = 36  # 35 and +Inf
EXPECTED = {
    # name: (type, label, values, buckets)
    "tgi_request_count": ("counter", None, (), 0),
    "tgi_request_success": ("counter", None, (), 0),
    "tgi_request_failure": (
        "counter",
        "err",
        ("overloaded", "validation", "template", "generation", "incomplete", "dropped"),
        0,
    ),
    "tgi_request_duration": ("histogram", None, (), DURATION_BUCKETS),
    "tgi_request_validation_duration": ("histogram", None, (), DURATION_BUCKETS),
    "tgi_request_queue_duration": ("histogram", None, (), DURATION_BUCKETS),
    "tgi_request_inference_duration": ("histogram", None, (), DURATION_BUCKETS),
    "tgi_request_mean_time_per_token_duration": ("histogram", None, (), DURATION_BUCKETS),
    "tgi_request_input_length": ("histogram", None, (), 101),
    "tgi_request_max_new_tokens": ("histogram", None, (), 101),
    "tgi_request_generated_tokens": ("histogram", None, (), 101),
    "tgi_request_skipped_tokens": ("summary", None, (), 18),  # buckets beside it, for the Grafana board
    "tgi_batch_inference_count": ("counter", "method", ("prefill", "decode"), 0),
    "tgi_batch_inference_success": ("counter", "method", ("prefill", "decode"), 0),
    "tgi_batch_inference_failure": ("counter", "method", ("prefill", "decode"), 0),
    "tgi_batch_inference_duration": ("histogram", "method", ("prefill", "decode"), DURATION_BUCKETS),
    "tgi_batch_forward_duration": ("histogram", "method", ("prefill", "decode"), DURATION_BUCKETS),
    "tgi_batch_decode_duration": ("histogram", "method", ("prefill", "decode"), DURATION_BUCKETS),
    "tgi_batch_filter_duration": ("histogram", "method", ("prefill", "decode"), DURATION_BUCKETS),
    "tgi_batch_concat_duration": ("histogram", "method", ("decode",), DURATION_BUCKETS),
    "tgi_batch_concat": ("counter", "reason", ("backpressure", "wait_exceeded", "chunking"), 0),
    "tgi_batch_next_size": ("histogram", None, (), 1025),
    "tgi_batch_current_size": ("gauge", None, (), 0),
    "tgi_batch_current_max_tokens": ("gauge", None, (), 0),
    "tgi_queue_size": ("gauge", None, (), 0),
    "tgi_batch_max_total_tokens": ("gauge", None, (), 0),
}
TYPES = {name: kind for name, (kind, *_) in EXPECTED.items()} | {"tgi_request_skipped_tokens_bucket": "counter"}
GRAFANA = (
    *(f"{name}_bucket" for name, (kind, *_) in EXPECTED.items() if kind == "histogram"),
    "tgi_request_skipped_tokens_bucket",
    "tgi_request_generated_tokens_sum",
    "tgi_batch_concat",
    "tgi_request_failure",
    "tgi_request_success",
    "tgi_request_count",
    "tgi_queue_size",
    "tgi_batch_current_size",
    "tgi_batch_current_max_tokens",
)
"""Series that TGI's board asks for."""


def families(text: str) -> dict[str, list[tuple[str, dict[str, str], float]]]:
    return {
        family.name: [(sample.name, sample.labels, sample.value) for sample in family.samples]
        for family in text_string_to_metric_families(text)
    }


def test_M1_all_of_tgis_metrics_and_no_other_tgi_name() -> None:
    text = Metrics(INFO).text().decode()
    types = dict(line.split()[2:4] for line in text.splitlines() if line.startswith("# TYPE"))
    assert {name: kind for name, kind in types.items() if name.startswith("tgi_")} == TYPES
    assert {name for name in types if not name.startswith("tgi_")} == {
        "segue_time_to_first_token_seconds",
        "segue_time_per_output_token_seconds",
        "segue_kv_blocks_used",
        "segue_kv_blocks",
        "segue_prefix_cache_queried_tokens_total",
        "segue_prefix_cache_hit_tokens_total",
        "segue_preemptions_total",
        "segue_draft_tokens_total",
        "segue_accepted_draft_tokens_total",
    }


@pytest.mark.parametrize("name", GRAFANA)
def test_M1_the_series_of_tgis_grafana_board(name: str) -> None:
    lines = Metrics(INFO).text().decode().splitlines()
    samples = [line for line in lines if line.partition("{")[0].partition(" ")[0] == name]
    assert samples
    if name.endswith("_bucket"):
        assert any('le="+Inf"' in line for line in samples)


@pytest.mark.parametrize("name", EXPECTED)
def test_M1_labels_and_buckets(name: str) -> None:
    kind, label, values, num_buckets = EXPECTED[name]
    lines = [line for line in Metrics(INFO).text().decode().splitlines() if not line.startswith("#")]
    own = [
        line for line in lines if line.split("{")[0].split(" ")[0].removesuffix("_bucket") in (name, f"{name}_count")
    ]
    assert own
    for value in values:
        assert any(f'{label}="{value}"' in line for line in own)
    if kind == "counter":
        assert {line.split("{")[0].split(" ")[0] for line in own} == {name}
    assert sum("_bucket" in line for line in own) == num_buckets * max(1, len(values))


def test_M1_bucket_bounds() -> None:
    lines = Metrics(INFO).text().decode().splitlines()
    bounds = [
        line.split('le="')[1].split('"')[0] for line in lines if line.startswith("tgi_request_input_length_bucket")
    ]
    assert bounds == [str(2 * k) for k in range(1, 101)] + ["+Inf"]
    durations = [
        float(line.split('le="')[1].split('"')[0]) for line in lines if line.startswith("tgi_request_duration_bucket")
    ]
    assert durations[:2] == pytest.approx([0.00015, 0.000225])
    summary = [line for line in lines if line.startswith("tgi_request_skipped_tokens{")]
    assert [line.split('"')[1] for line in summary] == ["0", "0.5", "0.9", "0.95", "0.99", "0.999", "1"]


def test_a_steps_statistics() -> None:
    metrics = Metrics(INFO)
    metrics.on_step(
        StepStats(
            num_running=3,
            num_waiting=2,
            num_used_blocks=7,
            num_total_blocks=9,
            num_scheduled_tokens=20,
            num_prefill_tokens=18,
            num_prefill_sequences=1,
            num_decode_sequences=2,
            num_new_sequences=1,
            num_cached_tokens=4,
            num_queried_tokens=8,
            num_preemptions=1,
            num_running_tokens=300,
            step_s=0.5,
            forward_s=0.25,
            sample_s=0.125,
        )
    )
    metrics.on_step(StepStats(num_running=3, num_scheduled_tokens=3, num_decode_sequences=3, step_s=0.5))
    metrics.on_step(StepStats())
    lines = metrics.text().decode().splitlines()
    for line in (
        "tgi_queue_size 0",
        "tgi_batch_current_size 0",
        'tgi_batch_inference_count{method="prefill"} 1',
        'tgi_batch_inference_success{method="decode"} 1',
        'tgi_batch_inference_duration_sum{method="prefill"} 0.5',
        'tgi_batch_forward_duration_sum{method="prefill"} 0.25',
        'tgi_batch_decode_duration_sum{method="prefill"} 0.125',
        'tgi_batch_concat{reason="chunking"} 1',
        "tgi_batch_next_size_count 1",
        "segue_prefix_cache_hit_tokens_total 4",
        "segue_prefix_cache_queried_tokens_total 8",
        "segue_preemptions_total 1",
    ):
        assert line in lines, line


def test_steps_that_come_as_one_count_each() -> None:
    metrics = Metrics(INFO)
    stats = StepStats(num_steps=4, num_scheduled_tokens=8, num_decode_sequences=2, step_s=0.5, update_s=0.25)
    metrics.on_step(stats)
    lines = metrics.text().decode().splitlines()
    for line in (
        'tgi_batch_inference_count{method="decode"} 4',
        'tgi_batch_inference_success{method="decode"} 4',
        'tgi_batch_inference_duration_count{method="decode"} 4',
        'tgi_batch_inference_duration_sum{method="decode"} 0.5',
        'tgi_batch_filter_duration_sum{method="decode"} 0.25',
    ):
        assert line in lines, line


async def test_what_is_counted_later_is_counted_together_or_when_it_is_asked_for() -> None:
    metrics = Metrics(INFO)
    both = asyncio.Event()
    counted = list[str]()
    metrics.later(lambda: counted.append("a"))
    metrics.later(lambda: counted.append("b"))
    metrics.later(both.set)
    assert counted == []
    async with asyncio.timeout(60):
        await both.wait()
    assert counted == ["a", "b"]
    metrics.later(lambda: counted.append("c"))
    metrics.text()
    assert counted == ["a", "b", "c"]
    metrics.settle()
    assert counted == ["a", "b", "c"]


def test_the_gauges_are_the_last_steps() -> None:
    metrics = Metrics(INFO)
    metrics.on_step(
        StepStats(num_running=3, num_waiting=2, num_used_blocks=7, num_total_blocks=9, num_running_tokens=5)
    )
    lines = metrics.text().decode().splitlines()
    assert "tgi_queue_size 2" in lines
    assert "tgi_batch_current_size 3" in lines
    assert "tgi_batch_current_max_tokens 5" in lines
    assert "segue_kv_blocks_used 7" in lines
    assert "segue_kv_blocks 9" in lines
    assert "tgi_batch_max_total_tokens 4096" in lines


@pytest.mark.parametrize("method", ["prefill", "decode"])
def test_M1_failed_steps(method: str) -> None:
    """A step of which a half failed, then one that failed altogether."""
    metrics = Metrics(INFO)
    failed = {f"num_failed_{method}s": 2}
    part = {f"num_{method}_sequences": 2, "num_scheduled_tokens": 2, "step_s": 0.5}
    metrics.on_step(StepStats(**part, **failed))  # type: ignore[arg-type]
    metrics.on_step(StepStats(**part, **failed, has_failed=True))  # type: ignore[arg-type]
    lines = metrics.text().decode().splitlines()
    for line in (
        f'tgi_batch_inference_count{{method="{method}"}} 5',
        f'tgi_batch_inference_success{{method="{method}"}} 1',
        f'tgi_batch_inference_failure{{method="{method}"}} 4',
        f'tgi_batch_inference_duration_count{{method="{method}"}} 1',
    ):
        assert line in lines, line


@pytest.mark.parametrize("reason", [None, "backpressure", "wait_exceeded"])
def test_M1_new_requests_join_running_ones(reason: str | None) -> None:
    metrics = Metrics(INFO)
    metrics.on_step(
        StepStats(
            num_scheduled_tokens=9,
            num_new_sequences=2,
            num_prefill_sequences=2,
            num_decode_sequences=1,
            concat_reason=reason,
            schedule_s=0.5,
            update_s=0.25,
        )
    )
    lines = metrics.text().decode().splitlines()
    assert f'tgi_batch_concat{{reason="{reason or "chunking"}"}} 1' in lines
    assert 'tgi_batch_concat_duration_sum{method="decode"} 0.5' in lines
    assert 'tgi_batch_filter_duration_sum{method="prefill"} 0.25' in lines


async def test_M1_speculated_tokens(serve: Serve) -> None:
    app = serve(script=says("hello!!", tokens_a_step=4))
    await app.post("/generate", {"inputs": "abc"})
    assert await app.metric("tgi_request_skipped_tokens_sum") == 6
    assert await app.metric('tgi_request_skipped_tokens_bucket{le="2"}') == 0
    assert await app.metric('tgi_request_skipped_tokens_bucket{le="3"}') == 2


@pytest.mark.parametrize("details", [False, True])
async def test_M1_tokens_of_several_steps_were_not_speculated(serve: Serve, details: bool) -> None:
    app = serve(script=says("hello!!", tokens_a_step=4, one_a_step=True))
    parameters = {"details": details, "top_n_tokens": 1 if details else None}
    await app.post("/generate", {"inputs": "abc", "parameters": parameters})
    assert await app.metric("tgi_request_skipped_tokens_sum") == 0
    assert await app.metric('tgi_request_skipped_tokens_bucket{le="0"}') == 8


async def test_M1_tokens_after_a_stop_string_do_not_count(serve: Serve) -> None:
    app = serve(script=says("hello!!", tokens_a_step=4, one_a_step=True))
    await app.post("/generate", {"inputs": "abc", "parameters": {"stop": ["lo"]}})
    assert await app.metric("tgi_request_skipped_tokens_count") == 5
    assert await app.metric("tgi_request_generated_tokens_sum") == 5


@pytest.mark.parametrize(
    ("path", "body", "count"),
    [
        ("/generate", {"inputs": "a"}, 1),
        ("/generate_stream", {"inputs": "a"}, 1),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "a"}]}, 2),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "a"}], "stream": True}, 2),
        ("/v1/completions", {"prompt": ["a", "b", "c"]}, 4),
        ("/v1/completions", {"prompt": ["a", "b", "c"], "stream": True}, 4),
        ("/chat_tokenize", {"messages": [{"role": "user", "content": "a"}]}, 1),
        ("/tokenize", {"inputs": "a"}, 0),
    ],
)
async def test_M1_requests_are_counted_as_tgi_does(serve: Serve, path: str, body: object, count: int) -> None:
    app = serve()
    assert (await app.post(path, body)).status_code == 200
    assert await app.metric("tgi_request_count") == count
    assert await app.metric("tgi_request_success") == len(app.engine.requests)


async def test_M1_a_finished_request(serve: Serve) -> None:
    app = serve()
    await app.post("/generate", {"inputs": "abc", "parameters": {"max_new_tokens": 1500}})
    assert await app.metric("tgi_request_input_length_sum") == 4
    assert await app.metric("tgi_request_max_new_tokens_sum") == 1024
    assert await app.metric("tgi_request_generated_tokens_sum") == 6
    for name in (
        "tgi_request_duration",
        "tgi_request_validation_duration",
        "tgi_request_queue_duration",
        "tgi_request_inference_duration",
        "tgi_request_mean_time_per_token_duration",
        "segue_time_to_first_token_seconds",
        "segue_time_per_output_token_seconds",
    ):
        assert await app.metric(f"{name}_count") == 1, name
    assert await app.metric("tgi_request_skipped_tokens_count") == 6
    assert await app.metric("tgi_request_skipped_tokens_sum") == 0


@pytest.mark.parametrize(
    ("path", "body", "kind"),
    [
        ("/generate", {"inputs": ""}, "validation"),
        ("/generate_stream", {"inputs": ""}, "validation"),
        ("/generate", {"inputs": "fail"}, "generation"),
        ("/generate_stream", {"inputs": "fail"}, "generation"),
        ("/v1/chat/completions", {"messages": [{"role": "bad", "content": ""}]}, "template"),
        ("/v1/completions", {"prompt": "a", "suffix": "b"}, "validation"),
    ],
)
async def test_M1_failures_by_kind(serve: Serve, path: str, body: object, kind: str) -> None:
    app = serve(script=fails("Server error: boom"))
    await app.post(path, body)
    assert await app.metric(f'tgi_request_failure{{err="{kind}"}}') == 1
    assert await app.metric("tgi_request_success") == 0
