"""One sequence in the engine, read as text: ids become tokens with text, until the end or a stop string."""

import math
import time
from collections.abc import Callable, Sequence
from contextlib import aclosing
from typing import NamedTuple

from msgspec import Struct

from segue.core.errors import IncompleteGenerationError, RequestError
from segue.core.output import FinishReason, RequestOutput, TokenOutput
from segue.server.admission import AdmittedRequest, Ask
from segue.server.concurrency import all_or_none
from segue.server.floats import shortest_f32
from segue.server.journal import log_success, span_fields
from segue.server.state import Server
from segue.server.token_lane import LaneTokens, TokenEvent, Way
from segue.server.tracing import MAX_TEXT_CHARS, GenerationRecord, current_trace
from segue.text.detokenizer import IncrementalDetokenizer, generated_text
from segue.text.stop_strings import StopMatcher

__all__ = [
    "Answer",
    "Generation",
    "PrefillToken",
    "Timings",
    "Token",
    "generate",
]


class PrefillToken(Struct, frozen=True, gc=False):
    """A prompt token. Encoded as it is, so fields have the wire's names and order."""

    id: int
    text: str
    logprob: float | None


class Token(Struct, frozen=True, gc=False):
    """A generated token. Encoded as it is; made in 0.06 us, where a frozen dataclass takes 0.37."""

    id: int
    text: str
    logprob: float
    """An f32 in its shortest form; encoded as null when it is not finite."""
    special: bool


class Timings(NamedTuple):
    """How long a request took, in seconds, by TGI's names."""

    total_time: float
    validation_time: float
    queue_time: float
    inference_time: float
    time_per_token: float


class Generation:
    """One sequence from its submission on. ``tokens``, ``top_tokens`` and the rest grow while it is read."""

    def __init__(self, server: Server, admitted: AdmittedRequest) -> None:
        """Submits the request to the engine."""
        self._server = server
        self._tokenizer = server.model.tokenizer
        self._special_ids = self._tokenizer.special_token_ids
        self.admitted = admitted
        self._request = admitted.to_request(server.engine)
        prompt_ids = self._request.prompt_token_ids
        self._detokenizer = IncrementalDetokenizer(self._tokenizer, prompt_ids)
        self._push = self._detokenizer.push
        self._stops = StopMatcher(admitted.sampling.stop) if admitted.sampling.stop else None
        self._has_top_tokens = admitted.sampling.top_n_tokens > 0
        self._is_plain = False
        """The first token is there, and neither stop strings nor other tokens are wanted."""
        self._take: Callable[[list[Token]], bool]
        self._way: Way | None = None
        self._token_ids: list[int] = []
        self._tokens: list[Token] = []
        """Without those of ``_lane_tokens``."""
        self._lane_tokens: list[tuple[int, LaneTokens]] = []
        """What the lane wrote, and how many tokens were before it."""
        self.top_tokens: list[list[Token]] = []
        """One list a token; empty unless ``top_n_tokens`` was asked for."""
        self.prefill: list[PrefillToken] = []
        self.num_cached_tokens = 0
        """Of the prompt; known with the first token."""
        self.finish_reason: FinishReason | None = None
        """Set with the last token."""
        self._scheduled_time = self._first_token_time = self._end_time = math.nan
        self._batch_size = 0
        trace = current_trace()
        if trace is not None:
            trace.generations.append(self)
        self._outputs = server.engine.submit(self._request)

    async def read(self, take: Callable[[list[Token]], bool]) -> bool:
        """Call ``take`` with new tokens, at least one, until it returns False or had the last ones.

        Returns whether there are more, for which ``read`` is to be called again. ``finish_reason`` is set when
        ``take`` is given the last tokens. Raises GenerationError, IncompleteGenerationError, and what ``take`` raises.
        """

        self._take = take
        await self._outputs.read(self._take_outputs)
        if self.finish_reason is not None:
            return False
        if self._outputs.is_closed:
            raise IncompleteGenerationError
        return True

    def use_lane(self, event: TokenEvent, sink: object) -> None:
        """Before ``read``: the reader's events for tokens are ``event``, so that it need not see those of the lane.

        They are in ``tokens`` when it is called again.
        """
        if self._server.lane is not None:
            self._way = self._server.lane.way(self._request.request_id, event, sink)

    async def aclose(self) -> None:
        """Abort what has not come to its end. May be called again."""
        self._add_lane_tokens()
        await self._outputs.aclose()

    async def run(self) -> "Generation":
        """Read all steps; for answers that are sent at once."""
        async with aclosing(self):
            while await self.read(lambda _: True):
                pass
        return self

    @property
    def seed(self) -> int | None:
        """The seed to report: None when nothing was sampled."""
        return self._request.sampling.seed if self._request.sampling.is_sampling else None

    @property
    def num_inputs(self) -> int:
        return len(self.admitted.input_ids)

    @property
    def num_tokens(self) -> int:
        return len(self._token_ids)

    @property
    def tokens(self) -> list[Token]:
        """The lane's are made only when they are asked for: for 128 that takes 0.15 ms, just when streams end."""
        for before, written in self._lane_tokens:
            self._tokens[before:before] = [
                Token(token_id, self._piece(token_id), shortest_f32(logprob), token_id in self._special_ids)
                for token_id, logprob in zip(written.ids, written.logprobs, strict=True)
            ]
        self._lane_tokens.clear()
        return self._tokens

    @property
    def mean_logprob(self) -> float:
        return math.fsum(token.logprob for token in self.tokens) / self.num_tokens

    def text(self) -> str:
        """What was generated, special tokens skipped, a stop string kept."""
        return generated_text(self._tokenizer, self._request.prompt_token_ids, self._token_ids)

    def timings(self) -> Timings:
        """Of a generation that ended."""
        admitted = self.admitted
        inference_s = self._end_time - self._scheduled_time
        return Timings(
            total_time=self._end_time - admitted.ask.received_time,
            validation_time=admitted.validated_time - admitted.ask.received_time,
            queue_time=max(0.0, self._scheduled_time - admitted.validated_time),
            inference_time=inference_s,
            time_per_token=inference_s / self.num_tokens,
        )

    def record(self) -> GenerationRecord:
        """For the trace; also of a generation that did not come to its end."""
        admitted, has_ended = self.admitted, not math.isnan(self._end_time)
        times = self.timings()._asdict() if has_ended else {}
        fields = span_fields(admitted.ask.parameters, self.seed, times)
        return GenerationRecord(
            name=admitted.ask.name,
            fields={name: str(value)[:MAX_TEXT_CHARS] for name, value in fields.items() if value is not None},
            received_time=admitted.ask.received_time,
            tokenize_times=admitted.tokenize_times,
            validated_time=admitted.validated_time,
            scheduled_time=_known(self._scheduled_time),
            first_token_time=_known(self._first_token_time),
            end_time=_known(self._end_time),
            batch_size=self._batch_size,
            num_inputs=self.num_inputs,
            num_cached_tokens=self.num_cached_tokens,
            num_tokens=self.num_tokens,
        )

    def record_success_later(self) -> None:
        """For streams: others may be waiting for their events."""
        self._server.metrics.later(self.record_success)

    def record_success(self) -> None:
        """Into the metrics and the log, once a request: of ``best_of`` sequences the best."""
        metrics, timings, num_tokens = self._server.metrics, self.timings(), self.num_tokens
        metrics.settle()
        metrics.request_success.add()
        metrics.request_duration.observe(timings.total_time)
        metrics.validation_duration.observe(timings.validation_time)
        metrics.queue_duration.observe(timings.queue_time)
        metrics.inference_duration.observe(timings.inference_time)
        metrics.time_per_token.observe(timings.time_per_token)
        metrics.generated_tokens.observe(num_tokens)
        metrics.time_to_first_token.observe(self._first_token_time - self.admitted.ask.received_time)
        if num_tokens > 1:
            metrics.time_per_output_token.observe((self._end_time - self._first_token_time) / (num_tokens - 1))
        ask = self.admitted.ask
        log_success(ask.name, ask.parameters, self.seed, timings._asdict())

    def _take_outputs(self, outputs: Sequence[RequestOutput]) -> bool:
        """Whether more are wanted."""
        self._add_lane_tokens()
        tokens = self._read_plain(outputs) if self._is_plain else self._read_all(outputs)
        goes_on = (not tokens or self._take(tokens)) and self.finish_reason is None
        if goes_on and self._way is not None and self._is_plain and self._detokenizer.is_plain:
            self._way.enter(self.num_tokens + 1)
        return goes_on

    def _add_lane_tokens(self) -> None:
        written = None if self._way is None else self._way.leave()
        if written is None:
            return
        self._lane_tokens.append((self.num_tokens, written))
        self._token_ids += written.ids
        for num_tokens, num_steps in written.num_steps.items():
            self._server.metrics.skipped(num_tokens - 1, num_steps)

    def _read_plain(self, outputs: Sequence[RequestOutput]) -> list[Token]:
        """As ``_read_all``, in a third of the time, where nothing but tokens is to be looked for."""
        push, special_ids = self._push, self._special_ids
        tokens = [
            Token(given.token_id, push(given.token_id), shortest_f32(given.logprob), given.token_id in special_ids)
            for output in outputs
            for given in output.tokens
        ]
        if len(tokens) == sum([output.num_steps for output in outputs]):
            self._server.metrics.skipped(0, len(tokens))
        else:
            for output in outputs:
                self._count_steps(output, len(output.tokens))
        self._add(tokens)
        reason = outputs[-1].finish_reason
        if reason is not None and outputs[-1].tokens:
            self.finish_reason = reason
            self._end_time = time.monotonic()
        return tokens

    def _read_all(self, outputs: Sequence[RequestOutput]) -> list[Token]:
        tokens = self._read(outputs[0])
        for output in outputs[1:]:
            if self.finish_reason is not None:  # a stop string: what the engine made since is not wanted
                break
            tokens += self._read(output)
        self._is_plain = bool(self._token_ids) and self._stops is None and not self._has_top_tokens
        return tokens

    def _count_steps(self, output: RequestOutput, num_taken: int) -> None:
        """``num_taken``: tokens of ``output`` before a stop string; what steps made after it is not wanted."""
        if num_taken:
            num_a_step = len(output.tokens) // output.num_steps
            self._server.metrics.skipped(num_a_step - 1, -(-num_taken // num_a_step))

    def _read(self, output: RequestOutput) -> list[Token]:
        if output.scheduled_time is not None:
            self._scheduled_time = output.scheduled_time
        if not output.tokens:
            return []
        if not self._token_ids:
            self._begin(output)
        tokens = []
        for given in output.tokens:
            token = self._token(given.token_id, given.logprob)
            tokens.append(token)
            if self._has_top_tokens:
                self.top_tokens.append(self._top_tokens(given))
            if self._stops is not None and self._stops.push(token.text) is not None:
                self.finish_reason = FinishReason.STOP_SEQUENCE
                break
        self._count_steps(output, len(tokens))
        if len(tokens) == len(output.tokens) and output.finish_reason is not None:
            # TGI's order: the length and EOS go before a stop string that the same token completes.
            self.finish_reason = output.finish_reason
        if self.finish_reason is not None:
            self._end_time = time.monotonic()
        self._add(tokens)
        return tokens

    def _add(self, tokens: list[Token]) -> None:
        self._tokens += tokens
        self._token_ids += [token.id for token in tokens]

    def _token(self, token_id: int, logprob: float) -> Token:
        """The next one."""
        return Token(token_id, self._push(token_id), shortest_f32(logprob), token_id in self._special_ids)

    def _begin(self, output: RequestOutput) -> None:
        self._first_token_time = time.monotonic()
        self._batch_size = self._server.metrics.num_running
        self.num_cached_tokens = output.num_cached_tokens
        if math.isnan(self._scheduled_time):
            self._scheduled_time = self._first_token_time
        if self.admitted.wants_prefill:
            ids = self._request.prompt_token_ids
            logprobs = output.prompt_logprobs or (None,) * len(ids)
            self.prefill = [
                PrefillToken(token_id, self._text_of(token_id), None if logprob is None else shortest_f32(logprob))
                for token_id, logprob in zip(ids, logprobs, strict=True)
            ]

    def _top_tokens(self, given: TokenOutput) -> list[Token]:
        return [
            Token(token_id, self._text_of(token_id), shortest_f32(logprob), token_id in self._special_ids)
            for token_id, logprob in given.top_tokens
            if logprob != -math.inf
        ]

    def _piece(self, token_id: int) -> str:
        """The text of a token of the lane."""
        assert self._tokenizer.pieces is not None
        text = self._tokenizer.pieces[token_id]
        assert isinstance(text, str)
        return text

    def _text_of(self, token_id: int) -> str:
        return self._tokenizer.decode([token_id], skip_special_tokens=False)


class Answer(NamedTuple):
    """The sequence with the highest mean logprob (of equals the first), and the others of ``best_of``."""

    best: Generation
    others: list[Generation]


async def generate(server: Server, ask: Ask) -> Answer:
    """All of a generation at once, counted in the metrics.

    Raises RequestError; then, and when cancelled, no sequence goes on.
    """
    server.metrics.request_count.add()
    try:
        with server.admission.permits(ask.parameters, streaming=False):
            answer = await _best_of(server, await server.admission.admit(ask))
    except RequestError as error:
        server.record_failure(ask.name, error)
        raise
    answer.best.record_success()
    return answer


async def _best_of(server: Server, admitted: AdmittedRequest) -> Answer:
    if admitted.best_of == 1:
        return Answer(await Generation(server, admitted).run(), [])
    sequences = await all_or_none([Generation(server, admitted).run() for _ in range(admitted.best_of)])
    best = max(range(len(sequences)), key=lambda index: sequences[index].mean_logprob)
    return Answer(sequences[best], sequences[:best] + sequences[best + 1 :])


def _known(time_s: float) -> float | None:
    return None if math.isnan(time_s) else time_s
