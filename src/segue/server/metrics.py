"""What ``/metrics`` says: every metric of TGI by its name, type, labels and buckets, then Segue's own."""

import asyncio
import copy
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import msgspec

from segue.core.errors import GenerationError, OverloadedError, RequestError, TemplateError, ToolError
from segue.core.output import EngineInfo, StepStats
from segue.server.instruments import (
    Buckets,
    Counter,
    Gauge,
    Histogram,
    Instrument,
    Mergeable,
    Summary,
    exposition,
    geometric,
    linear,
)

__all__ = ["Metrics"]

T = TypeVar("T", bound=Instrument)

_STATES = msgspec.msgpack.Decoder(dict[str, Any])

_DURATION = geometric(0.0001, 1.5, 35)
_METHODS = ("prefill", "decode")
_FAILURES = ("overloaded", "validation", "template", "generation", "incomplete", "dropped")
_CONCAT_REASONS = ("backpressure", "wait_exceeded", "chunking")
_MOST_SKIPPED = 16
_MOST_NOTED = 64
"""Notes that wait to be counted: together they take a fraction of the time, since the code is in the cache then."""
_LATER_S = 0.05
_QUANTILES = (0, 0.5, 0.9, 0.95, 0.99, 0.999, 1)


class Metrics:
    """The instruments of one server; ``on_step`` belongs in the engine handle's list of callbacks."""

    def __init__(self, info: EngineInfo, hear_all: Callable[[], None] = lambda: None) -> None:
        """``hear_all`` calls ``on_step`` for the steps that it was not called for yet."""
        self._hear_all = hear_all
        self._instruments: list[Instrument] = []
        self._noted_steps: list[StepStats] = []
        self._noted_skips: dict[int, int] = {}
        self._counts: list[Callable[[], None]] = []
        self._counting: asyncio.TimerHandle
        total = linear(info.max_total_tokens, 100)

        self.request_count = self._counter("request_count", "Requests and generations inside them")
        self.request_success = self._counter("request_success", "Generations that ended well")
        self._request_failure = self._counter("request_failure", "Requests that failed", "err", _FAILURES)
        self.request_duration = self._duration("request_duration", "Seconds from arrival to the last token")
        self.validation_duration = self._duration("request_validation_duration", "Seconds from arrival to the queue")
        self.queue_duration = self._duration("request_queue_duration", "Seconds in the queue")
        self.inference_duration = self._duration("request_inference_duration", "Seconds in the running batch")
        self.time_per_token = self._duration(
            "request_mean_time_per_token_duration", "Seconds in the running batch for each token"
        )
        self.input_length = self._histogram("request_input_length", "Prompt tokens", linear(info.max_input_tokens, 100))
        self.max_new_tokens = self._histogram("request_max_new_tokens", "Tokens asked for, up to 1024", total)
        self.generated_tokens = self._histogram("request_generated_tokens", "Tokens generated", total)
        skipped = "Speculated tokens accepted in a step"
        self._skipped_tokens = self._add(Summary("tgi_request_skipped_tokens", skipped, _QUANTILES))
        # TGI's Grafana board asks for buckets of what TGI exports as a summary.
        self._skipped_buckets = self._add(Buckets("tgi_request_skipped_tokens", skipped, range(_MOST_SKIPPED + 1)))

        self._batch_count = self._counter("batch_inference_count", "Steps", "method", _METHODS)
        self._batch_success = self._counter("batch_inference_success", "Steps that ended well", "method", _METHODS)
        self._batch_failure = self._counter("batch_inference_failure", "Steps that failed", "method", _METHODS)
        self._batch_duration = self._duration("batch_inference_duration", "Seconds of a step", _METHODS)
        self._batch_forward = self._duration("batch_forward_duration", "Seconds of the model in a step", _METHODS)
        self._batch_decode = self._duration("batch_decode_duration", "Seconds of choosing tokens in a step", _METHODS)
        self._batch_filter = self._duration(
            "batch_filter_duration", "Seconds of taking in a step's results and dropping what has ended", _METHODS
        )
        self._batch_concat_duration = self._duration(
            "batch_concat_duration", "Seconds of choosing a step's work where new requests join", ("decode",)
        )
        self._batch_concat = self._counter("batch_concat", "Merges of new requests", "reason", _CONCAT_REASONS)
        self._batch_next_size = self._histogram("batch_next_size", "Requests that join together", linear(1024, 1024))
        self._batch_current_size = self._gauge("batch_current_size", "Requests in the running batch")
        self._batch_current_max_tokens = self._gauge("batch_current_max_tokens", "Most tokens the batch may reach")
        self._queue_size = self._gauge("queue_size", "Requests that wait")
        max_total = self._gauge("batch_max_total_tokens", "Most tokens of all requests together")
        max_total.value = info.max_batch_total_tokens

        self.time_to_first_token = self._add(
            Histogram("segue_time_to_first_token_seconds", "Seconds from arrival to the first token", _DURATION)
        )
        self.time_per_output_token = self._add(
            Histogram("segue_time_per_output_token_seconds", "Mean seconds between tokens after the first", _DURATION)
        )
        self._kv_blocks_used = self._add(Gauge("segue_kv_blocks_used", "Blocks of the KV cache held by requests"))
        self._kv_blocks = self._add(Gauge("segue_kv_blocks", "Blocks of the KV cache"))
        self._kv_blocks.value = info.num_blocks
        self._cache_queries = self._add(
            Counter("segue_prefix_cache_queried_tokens_total", "Prompt tokens looked up in the prefix cache")
        )
        self._cache_hits = self._add(
            Counter("segue_prefix_cache_hit_tokens_total", "Prompt tokens found in the prefix cache")
        )
        self._preemptions = self._add(Counter("segue_preemptions_total", "Requests set back for lack of memory"))
        self._drafts = self._add(Counter("segue_draft_tokens_total", "Speculated tokens that were verified"))
        self._accepted_drafts = self._add(
            Counter("segue_accepted_draft_tokens_total", "Speculated tokens that came true")
        )

    @property
    def num_running(self) -> int:
        """Sequences in the running batch after the last step."""
        if self._noted_steps:
            return self._noted_steps[-1].num_running
        return int(self._batch_current_size.value)

    def text(self, others: Sequence[bytes] = ()) -> bytes:
        """All of it, as Prometheus reads it; with ``others``, states of the processes beside this one, their sum.

        Each process hears of every step: what is counted there is the engine's, and not added.
        """
        self._hear_all()
        self.settle()
        if not others:
            return exposition(self._instruments)
        merged = {each.name: copy.deepcopy(each) for each in self._of_requests()}
        for state in others:
            for name, part in _STATES.decode(state).items():
                merged[name].add_state(part)
        return exposition([merged.get(each.name, each) for each in self._instruments])

    def state(self) -> bytes:
        """What this process alone has counted, for ``text`` in another one."""
        self._hear_all()
        self.settle()
        return msgspec.msgpack.encode({each.name: each.state() for each in self._of_requests()})

    def _of_requests(self) -> list[Mergeable]:
        return [
            self.request_count,
            self.request_success,
            self._request_failure,
            self.request_duration,
            self.validation_duration,
            self.queue_duration,
            self.inference_duration,
            self.time_per_token,
            self.input_length,
            self.max_new_tokens,
            self.generated_tokens,
            self._skipped_tokens,
            self._skipped_buckets,
            self.time_to_first_token,
            self.time_per_output_token,
        ]

    def failure(self, error: RequestError) -> None:
        self._request_failure.add(1, _failure_kind(error))

    def skipped(self, num_tokens: int, num_steps: int = 1) -> None:
        """So many tokens came with the first one of a step, in each of so many steps."""
        self._noted_skips[num_tokens] = self._noted_skips.get(num_tokens, 0) + num_steps

    def dropped(self) -> None:
        """The client left before its answer was complete."""
        self._request_failure.add(1, "dropped")

    def on_step(self, stats: StepStats) -> None:
        self._noted_steps.append(stats)
        if len(self._noted_steps) >= _MOST_NOTED:
            self.settle()

    def later(self, count: Callable[[], None]) -> None:
        """Count it within ``_LATER_S``, with all that comes until then: in a running event loop."""
        if not self._counts:
            self._counting = asyncio.get_running_loop().call_later(_LATER_S, self.settle)
        self._counts.append(count)

    def settle(self) -> None:
        """Count what was noted."""
        if self._counts:
            counts, self._counts = self._counts, []
            self._counting.cancel()
            for count in counts:
                count()
        for num_tokens, num_steps in self._noted_skips.items():
            self._skipped_tokens.observe(num_tokens, num_steps)
            self._skipped_buckets.observe(num_tokens, num_steps)
        self._noted_skips.clear()
        if not self._noted_steps:
            return
        for stats in self._noted_steps:
            self._count_step(stats)
        stats = self._noted_steps[-1]
        self._noted_steps.clear()
        self._queue_size.value = stats.num_waiting
        self._batch_current_size.value = stats.num_running
        self._batch_current_max_tokens.value = stats.num_running_tokens
        self._kv_blocks_used.value = stats.num_used_blocks
        self._kv_blocks.value = stats.num_total_blocks

    def _count_step(self, stats: StepStats) -> None:
        if stats.num_queried_tokens:
            self._cache_queries.add(stats.num_queried_tokens)
            self._cache_hits.add(stats.num_cached_tokens)
        if stats.num_preemptions:
            self._preemptions.add(stats.num_preemptions)
        if stats.num_draft_tokens:
            self._drafts.add(stats.num_draft_tokens)
            self._accepted_drafts.add(stats.num_accepted_tokens)
        if stats.num_new_sequences:
            self._batch_next_size.observe(stats.num_new_sequences)
            if stats.num_decode_sequences or stats.concat_reason:
                self._batch_concat.add(1, stats.concat_reason or "chunking")
                self._batch_concat_duration.observe(stats.schedule_s, "decode")
        if stats.num_failed_prefills or stats.num_failed_decodes:
            for failed_method, num_failed in zip(
                _METHODS, (stats.num_failed_prefills, stats.num_failed_decodes), strict=True
            ):
                self._batch_count.add(num_failed, failed_method)
                self._batch_failure.add(num_failed, failed_method)
        if stats.num_scheduled_tokens and not stats.has_failed:
            method = "prefill" if stats.num_prefill_sequences else "decode"
            num_steps = stats.num_steps
            self._batch_count.add(num_steps, method)
            self._batch_success.add(num_steps, method)
            for histogram, total_s in (
                (self._batch_duration, stats.step_s),
                (self._batch_forward, stats.forward_s),
                (self._batch_decode, stats.sample_s),
                (self._batch_filter, stats.update_s),
            ):
                histogram.observe(total_s / num_steps, method, num_steps)

    def _add(self, instrument: T) -> T:
        self._instruments.append(instrument)
        return instrument

    def _counter(self, name: str, help: str, label: str | None = None, values: tuple[str, ...] = ("",)) -> Counter:
        return self._add(Counter(f"tgi_{name}", help, label, values))

    def _gauge(self, name: str, help: str) -> Gauge:
        return self._add(Gauge(f"tgi_{name}", help))

    def _histogram(self, name: str, help: str, bounds: list[float]) -> Histogram:
        return self._add(Histogram(f"tgi_{name}", help, bounds))

    def _duration(self, name: str, help: str, methods: tuple[str, ...] | None = None) -> Histogram:
        label = None if methods is None else "method"
        return self._add(Histogram(f"tgi_{name}", help, _DURATION, label, methods or ("",)))


def _failure_kind(error: RequestError) -> str:
    match error:
        case OverloadedError():
            return "overloaded"
        case TemplateError() | ToolError():
            return "template"
        case GenerationError():
            return "generation"
    return "validation" if error.status == 422 else "incomplete"
