"""What a caller asked: immutable, made once in the server (or by ``LLM``) and never changed."""

from dataclasses import dataclass, field

from segue.core.grammar import Grammar

__all__ = ["AbortRequests", "Request", "SamplingParams", "StopCriteria"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """How the next token is chosen. Names and defaults are TGI's; a default means "switched off".

    The order in which the steps apply is the list in ``sampling/sampler.py``.
    """

    max_new_tokens: int | None = None
    """None: as many as the model's length limit allows."""
    do_sample: bool = False
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    typical_p: float = 1.0
    repetition_penalty: float = 1.0
    frequency_penalty: float = 0.0
    """TGI's: subtracts ``penalty * count / length`` over prompt and output."""
    presence_penalty: float = 0.0
    """OpenAI's: subtracts this from the logit of every id that was generated so far; the prompt does not count."""
    logit_bias: tuple[tuple[int, float], ...] = ()
    """(token id, what is added to its logit), each id once and in the vocabulary."""
    watermark: bool = False
    seed: int | None = None
    """Unsigned 64 bits; None: drawn at random when the request is admitted."""
    stop: tuple[str, ...] = ()
    top_n_tokens: int = 0
    prompt_logprobs: bool = False
    """TGI's ``decoder_input_details``: the prompt's own logprobs come back too; the prefix cache is then not used."""
    ignore_eos: bool = False
    grammar: Grammar | None = None

    @property
    def is_sampling(self) -> bool:
        """TGI's rule: any of the listed parameters away from its default turns sampling on (spec 8.2)."""
        return self.do_sample or self.temperature != 1.0 or self.top_k != 0 or self.top_p < 1.0 or self.typical_p < 1.0

    @property
    def is_plain(self) -> bool:
        """Whether a token and its alternatives follow from its logits and the tokens before it, and are all."""
        return not (self.watermark or self.prompt_logprobs or self.grammar is not None)

    @property
    def takes_likeliest(self) -> bool:
        """Of what is plain, whether it is the likeliest token by the model's own logits, without alternatives."""
        return not (
            self.is_sampling
            or self.repetition_penalty != 1.0
            or self.frequency_penalty
            or self.presence_penalty
            or self.logit_bias
            or self.top_n_tokens
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class StopCriteria:
    """When the engine stops a sequence by itself. Stop strings are found in text, so by the server, which aborts."""

    max_new_tokens: int
    """At least 1."""
    eos_token_ids: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One sequence to generate; ``best_of`` is several requests."""

    request_id: int
    """Unique among the live requests of one engine."""
    prompt_token_ids: tuple[int, ...]
    """Decoder input, not empty: the prompt, or the decoder's start tokens when there is an encoder input."""
    encoder_token_ids: tuple[int, ...] | None = None
    """Encoder input of an encoder-decoder model, not empty."""
    sampling: SamplingParams = field(default_factory=SamplingParams)
    stop: StopCriteria
    arrival_time: float = 0.0
    """``time.monotonic()``, which all processes of one machine share."""
    cache_salt: str = ""
    """Requests with different salts never share cached blocks."""


@dataclass(frozen=True, slots=True)
class AbortRequests:
    """Server → engine: these requests are no longer wanted; unknown ids are ignored."""

    request_ids: tuple[int, ...]
