"""A wire request becomes a request to the engine, or is refused with TGI's words (spec 2.1 to 2.3)."""

import secrets
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

from segue.core.config import ServeConfig
from segue.core.errors import OverloadedError, ValidationError
from segue.core.grammar import Grammar
from segue.core.output import EngineInfo
from segue.core.request import Request, SamplingParams, StopCriteria
from segue.engine.handle import EngineHandle
from segue.protocol.tgi import GenerateParameters, GrammarType
from segue.server.floats import round_to_f32
from segue.server.journal import log_inputs
from segue.server.metrics import Metrics
from segue.server.permits import OwnPermits, Permits

__all__ = ["Admission", "AdmittedRequest", "Ask", "Encoder", "Limits"]

_RESERVED_NEW_TOKENS = 1024
"""TGI reserves no more than this at first, and checks no more than this against the limit."""
_MAX_LOGIT_BIASES = 1024
"""They cost time at each step, which others wait for."""
_MAX_ID_DIGITS = 12


class Limits(NamedTuple):
    """What a request may ask for at most."""

    max_best_of: int
    max_stop_sequences: int
    max_top_n_tokens: int
    max_input_tokens: int
    max_total_tokens: int
    vocab_size: int

    @classmethod
    def of(cls, config: ServeConfig, info: EngineInfo) -> "Limits":
        return cls(
            max_best_of=config.max_best_of,
            max_stop_sequences=config.max_stop_sequences,
            max_top_n_tokens=config.max_top_n_tokens,
            max_input_tokens=info.max_input_tokens,
            max_total_tokens=info.max_total_tokens,
            vocab_size=info.vocab_size,
        )


class Rule(NamedTuple):
    """``text`` is said when ``is_broken``; it may name the parameters (``p``), the limits and ``num_stops``."""

    field: str
    """The parameter without which it is not broken; most requests give few."""
    is_broken: Callable[[GenerateParameters, Limits], bool]
    text: str


def _best_of(p: GenerateParameters) -> int:
    return p.best_of or 1


def _asks_for_sampling(p: GenerateParameters) -> bool:
    return p.do_sample or any(each is not None for each in (p.temperature, p.top_k, p.top_p, p.typical_p))


def _is_not_positive(value: float | None) -> bool:
    return value is not None and round_to_f32(value) <= 0


def _is_no_share(value: float | None) -> bool:
    return value is not None and not 0 < round_to_f32(value) < 1


def _is_no_bias(p: GenerateParameters, limits: Limits) -> bool:
    """Whether ``logit_bias`` names what is no token, or adds more than OpenAI lets one add."""
    return any(
        not (key.isascii() and key.isdigit() and len(key) < _MAX_ID_DIGITS and int(key) < limits.vocab_size)
        or not -100 <= bias <= 100
        for key, bias in (p.logit_bias or {}).items()
    )


# The order is TGI's: of several faults it names the first.
STREAM_RULES = (
    Rule(
        "best_of",
        lambda p, limits: p.best_of not in (None, 1),
        "`best_of` != 1 is not supported when streaming tokens",
    ),
    Rule(
        "decoder_input_details",
        lambda p, limits: p.decoder_input_details,
        "`decoder_input_details` == true is not supported when streaming tokens",
    ),
)
BEST_OF_RULES = (
    Rule(
        "best_of",
        lambda p, limits: _best_of(p) > 1 and limits.max_best_of == 1,
        "`best_of` != 1 is not allowed for this endpoint",
    ),
    Rule(
        "best_of",
        lambda p, limits: _best_of(p) > limits.max_best_of,
        "`best_of` must be > 0 and <= {limits.max_best_of}. Given: {p.best_of}",
    ),
)
PARAMETER_RULES = (
    Rule(
        "best_of",
        lambda p, limits: _best_of(p) > 1 and not _asks_for_sampling(p),
        "you must use sampling when `best_of` is > 1",
    ),
    Rule("temperature", lambda p, limits: _is_not_positive(p.temperature), "`temperature` must be strictly positive"),
    Rule(
        "repetition_penalty",
        lambda p, limits: _is_not_positive(p.repetition_penalty),
        "`repetition_penalty` must be strictly positive",
    ),
    Rule(
        "frequency_penalty",
        lambda p, limits: p.frequency_penalty is not None and not -2 <= p.frequency_penalty <= 2,
        "`frequency_penalty` must be >= -2.0 and <= 2.0",
    ),
    Rule("top_p", lambda p, limits: _is_no_share(p.top_p), "`top_p` must be > 0.0 and < 1.0"),
    Rule("typical_p", lambda p, limits: _is_no_share(p.typical_p), "`typical_p` must be > 0.0 and < 1.0"),
    Rule("top_k", lambda p, limits: p.top_k is not None and p.top_k <= 0, "`top_k` must be strictly positive"),
    Rule("max_new_tokens", lambda p, limits: p.max_new_tokens == 0, "`max_new_tokens` must be strictly positive"),
    Rule(
        "stop",
        lambda p, limits: len(p.stop) > limits.max_stop_sequences,
        "`stop` supports up to {limits.max_stop_sequences} stop sequences. Given: {num_stops}",
    ),
    Rule(
        "best_of",
        lambda p, limits: _best_of(p) > 1 and p.seed is not None,
        "`seed` must not be set when `best_of` > 1",
    ),
    Rule(
        "top_n_tokens",
        lambda p, limits: (p.top_n_tokens or 0) > limits.max_top_n_tokens,
        "`top_n_tokens` must be >= 0 and <= {limits.max_top_n_tokens}. Given: {p.top_n_tokens}",
    ),
    # What TGI does not have comes after what it has.
    Rule(
        "presence_penalty",
        lambda p, limits: p.presence_penalty is not None and not -2 <= p.presence_penalty <= 2,
        "`presence_penalty` must be >= -2.0 and <= 2.0",
    ),
    Rule(
        "logit_bias",
        lambda p, limits: len(p.logit_bias or {}) > _MAX_LOGIT_BIASES,
        f"`logit_bias` supports up to {_MAX_LOGIT_BIASES} tokens",
    ),
    Rule(
        "logit_bias",
        _is_no_bias,
        "`logit_bias` must map token ids below {limits.vocab_size} to numbers from -100.0 to 100.0",
    ),
)
TRUNCATE_RULES = (
    Rule(
        "truncate",
        lambda p, limits: p.truncate is not None and not 0 < p.truncate <= limits.max_input_tokens,
        "`truncate` must be strictly positive and less than {limits.max_input_tokens}. Given: {p.truncate}",
    ),
)


def check(rules: tuple[Rule, ...], parameters: GenerateParameters, limits: Limits) -> None:
    """Raises ValidationError with the first broken rule's text."""
    given = parameters.model_fields_set
    for rule in rules:
        if rule.field in given and rule.is_broken(parameters, limits):
            raise ValidationError(rule.text.format(p=parameters, limits=limits, num_stops=len(parameters.stop)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """One prompt with its parameters, whatever the dialect it came in."""

    name: str
    """TGI's name of the route's span, for the log."""
    inputs: str
    parameters: GenerateParameters
    input_ids: tuple[int, ...] | None = None
    """The prompt, where it came as token ids; ``inputs`` is then not read."""
    grammar: Grammar | None = None
    """What the answer is held to, where that is nothing that ``parameters`` could name."""
    add_special_tokens: bool = True
    received_time: float
    """``time.monotonic()``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AdmittedRequest:
    """A request that passed. ``best_of`` sequences are made of it."""

    ask: Ask
    input_ids: tuple[int, ...]
    """The prompt as the engine gets it, truncated; of an encoder-decoder model the encoder's input. Not empty."""
    sampling: SamplingParams
    stop: StopCriteria
    best_of: int
    wants_prefill: bool
    """``decoder_input_details``, and the server has them."""
    validated_time: float
    """``time.monotonic()``."""
    tokenize_times: tuple[float, float] | None = None
    """Begin and end, as ``validated_time``; None: the prompt came as ids."""

    def to_request(self, engine: EngineHandle) -> Request:
        """One sequence of it, under a new id and, where it samples and the caller gave none, with a seed of its own."""
        info, sampling = engine.info, self.sampling
        if sampling.seed is None and sampling.is_sampling:
            sampling = replace(sampling, seed=secrets.randbits(64))
        return Request(
            request_id=engine.next_request_id(),
            prompt_token_ids=info.decoder_start_token_ids if info.is_encoder_decoder else self.input_ids,
            encoder_token_ids=self.input_ids if info.is_encoder_decoder else None,
            sampling=sampling,
            stop=self.stop,
            arrival_time=self.ask.received_time,
        )


class Encoder(Protocol):
    """Text to token ids, off the event loop."""

    async def __call__(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """Raises ValidationError."""


class Admission:
    """Lets requests in: no more than ``max_concurrent_requests`` sequences at a time, and only what is valid."""

    def __init__(
        self,
        config: ServeConfig,
        info: EngineInfo,
        encode: Encoder,
        metrics: Metrics,
        admit_grammar: Callable[[GrammarType], Awaitable[Grammar]],
        permits: Permits | None = None,
    ) -> None:
        """``admit_grammar`` raises ValidationError. ``permits``: default, this server's own."""
        self._limits = Limits.of(config, info)
        self._permits = OwnPermits(config.max_concurrent_requests) if permits is None else permits
        self._has_prefill_logprobs = config.enable_prefill_logprobs
        self._info = info
        self._encode = encode
        self._metrics = metrics
        self._admit_grammar = admit_grammar

    @contextmanager
    def permits(self, parameters: GenerateParameters, *, streaming: bool) -> Iterator[None]:
        """Hold one permit for each sequence. Never waits: raises OverloadedError.

        Raises ValidationError where TGI does so before it counts: what a stream cannot have, and ``best_of``.
        """
        check(STREAM_RULES if streaming else BEST_OF_RULES, parameters, self._limits)
        num_sequences = _best_of(parameters)
        if not self._permits.take(num_sequences):
            raise OverloadedError
        try:
            yield
        finally:
            self._permits.give_back(num_sequences)

    async def admit(self, ask: Ask) -> AdmittedRequest:
        """Raises ValidationError."""
        inputs, parameters = ask.inputs, ask.parameters
        log_inputs(inputs)
        limits, info = self._limits, self._info
        check(PARAMETER_RULES, parameters, limits)
        if not (inputs if ask.input_ids is None else ask.input_ids):
            raise ValidationError("`inputs` cannot be empty")
        check(TRUNCATE_RULES, parameters, limits)
        tokenize_times = None
        if ask.input_ids is None:
            start = time.monotonic()
            input_ids = await self._encode(inputs, add_special_tokens=ask.add_special_tokens)
            tokenize_times = (start, time.monotonic())
        else:
            input_ids = list(ask.input_ids)
            if max(input_ids) >= info.vocab_size:
                raise ValidationError(f"token ids of a prompt must be below {info.vocab_size}. Given: {max(input_ids)}")
        if not input_ids:
            raise ValidationError("`inputs` cannot be empty")
        if parameters.truncate is not None:
            input_ids = input_ids[-parameters.truncate :]
        max_new_tokens = self._max_new_tokens(len(input_ids), parameters.max_new_tokens)
        grammar = ask.grammar
        if parameters.grammar is not None:
            grammar = await self._admit_grammar(parameters.grammar)
        self._metrics.input_length.observe(len(input_ids))
        self._metrics.max_new_tokens.observe(min(max_new_tokens, _RESERVED_NEW_TOKENS))
        return AdmittedRequest(
            ask=ask,
            input_ids=tuple(input_ids),
            sampling=_sampling(
                parameters, grammar, has_prompt_logprobs=self._has_prefill_logprobs and not info.is_encoder_decoder
            ),
            stop=StopCriteria(max_new_tokens=max_new_tokens, eos_token_ids=frozenset(info.eos_token_ids)),
            best_of=_best_of(parameters),
            wants_prefill=parameters.decoder_input_details and (self._has_prefill_logprobs or info.is_encoder_decoder),
            validated_time=time.monotonic(),
            tokenize_times=tokenize_times,
        )

    def _max_new_tokens(self, num_inputs: int, asked: int | None) -> int:
        """Exactly what was asked for, as far as the model's limit goes."""
        limits = self._limits
        room = limits.max_total_tokens - num_inputs
        reserved = max(room, 0) if asked is None else min(asked, _RESERVED_NEW_TOKENS)
        if num_inputs + reserved > limits.max_total_tokens:
            raise ValidationError(
                f"`inputs` tokens + `max_new_tokens` must be <= {limits.max_total_tokens}. "
                f"Given: {num_inputs} `inputs` tokens and {reserved} `max_new_tokens`"
            )
        if num_inputs > limits.max_input_tokens:
            raise ValidationError(f"`inputs` must have less than {limits.max_input_tokens} tokens. Given: {num_inputs}")
        return room if asked is None else min(asked, room)


def _sampling(p: GenerateParameters, grammar: Grammar | None, *, has_prompt_logprobs: bool) -> SamplingParams:
    return SamplingParams(
        max_new_tokens=p.max_new_tokens,
        do_sample=p.do_sample,
        temperature=1.0 if p.temperature is None else p.temperature,
        top_k=p.top_k or 0,
        top_p=1.0 if p.top_p is None else p.top_p,
        typical_p=1.0 if p.typical_p is None else p.typical_p,
        repetition_penalty=1.0 if p.repetition_penalty is None else p.repetition_penalty,
        frequency_penalty=p.frequency_penalty or 0.0,
        presence_penalty=p.presence_penalty or 0.0,
        logit_bias=tuple({int(key): bias for key, bias in (p.logit_bias or {}).items()}.items()),
        watermark=p.watermark,
        seed=p.seed,
        stop=tuple(p.stop),
        top_n_tokens=p.top_n_tokens or 0,
        prompt_logprobs=p.decoder_input_details and has_prompt_logprobs,
        grammar=grammar,
    )
