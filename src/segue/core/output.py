"""What comes back from the engine, step by step.

What exists once a token is a ``Struct``, made in a tenth of a frozen dataclass's time, and goes from
process to process as an array.
"""

from dataclasses import dataclass, field
from enum import StrEnum

from msgspec import Struct

__all__ = ["EngineInfo", "EngineStep", "FinishReason", "RequestOutput", "StepStats", "TokenOutput"]


class FinishReason(StrEnum):
    """Values are TGI's wire words."""

    LENGTH = "length"
    EOS_TOKEN = "eos_token"  # noqa: S105
    STOP_SEQUENCE = "stop_sequence"


class TokenOutput(Struct, frozen=True, array_like=True, gc=False):
    token_id: int
    logprob: float
    """Natural log, of the processed distribution the token was chosen from; may be ``-inf``."""
    top_tokens: tuple[tuple[int, float], ...] = ()
    """(id, logprob), best first; with ties at the end more than ``top_n_tokens``."""


class RequestOutput(Struct, frozen=True, array_like=True, gc=False, kw_only=True):
    """What a step, or several together, gave one request.

    Exactly one output of a request has ``finish_reason`` or ``error``: the last.
    """

    request_id: int
    tokens: tuple[TokenOutput, ...] = ()
    finish_reason: FinishReason | None = None
    error: str | None = None
    """The request failed; the text goes into TGI's "Request failed during generation: …"."""
    prompt_logprobs: tuple[float | None, ...] | None = None
    """On the first output with tokens, if asked for: one a prompt token, the first None."""
    num_cached_tokens: int = 0
    """Prompt (or encoder) tokens that came from the cache; valid on the first output."""
    scheduled_time: float | None = None
    """On the first output: ``time.monotonic()`` of the step that first ran the request."""
    num_steps: int = 1
    """So many steps gave its tokens, each as many."""


class StepStats(Struct, frozen=True, array_like=True, gc=False, kw_only=True):
    """Gauges after a step and what the step did, for the metrics."""

    num_running: int = 0
    num_waiting: int = 0
    num_used_blocks: int = 0
    num_total_blocks: int = 0
    num_steps: int = 1
    """More than 1: as many decodes of the same sequences, of which counts and times are the sums."""
    num_scheduled_tokens: int = 0
    num_prefill_tokens: int = 0
    num_prefill_sequences: int = 0
    num_decode_sequences: int = 0
    num_new_sequences: int = 0
    """Sequences that joined the running batch in this step."""
    num_cached_tokens: int = 0
    """Tokens that prefix or encoder cache hits saved in this step."""
    num_queried_tokens: int = 0
    """Tokens looked up in the caches in this step."""
    num_preemptions: int = 0
    """Sequences preempted in this step."""
    num_draft_tokens: int = 0
    """Guesses verified in this step."""
    num_accepted_tokens: int = 0
    """Guesses that came true."""
    concat_reason: str | None = None
    """Without prefill chunking, where new sequences joined running ones: why, in TGI's words."""
    num_running_tokens: int = 0
    """Most tokens that the running batch may come to hold (TGI's ``tgi_batch_current_max_tokens``)."""
    num_failed_prefills: int = 0
    """Executions of a batch that raised and had prompt tokens in it; its parts were run again."""
    num_failed_decodes: int = 0
    """Those that had none."""
    has_failed: bool = False
    """No part of the step gave a result."""
    end_time: float = 0.0
    """``time.monotonic()`` at the end of the step."""
    step_s: float = 0.0
    schedule_s: float = 0.0
    """Of it: choosing what runs, and reserving blocks."""
    forward_s: float = 0.0
    sample_s: float = 0.0
    update_s: float = 0.0
    """Of it: taking in the results, and dropping what has ended."""


class EngineStep(Struct, frozen=True, array_like=True, gc=False, kw_only=True):
    """Engine → server: the one message a step."""

    outputs: tuple[RequestOutput, ...]
    stats: StepStats


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineInfo:
    """Engine → server, once, when the engine is ready: what the server must know of the model without torch."""

    model_type: str
    is_encoder_decoder: bool
    dtype: str
    device: str
    vocab_size: int
    max_input_tokens: int
    max_total_tokens: int
    max_batch_prefill_tokens: int
    max_batch_total_tokens: int
    block_size: int
    num_blocks: int
    eos_token_ids: tuple[int, ...] = ()
    bos_token_id: int | None = None
    decoder_start_token_ids: tuple[int, ...] = ()
    """Encoder-decoder: what the decoder starts from."""
    device_name: str = ""
    """For ``x-compute-type``, e.g. ``cpu`` or ``nvidia-h100``."""
    quantize: str | None = None
    """How the weights come to have few bits, in the words of ``--quantize``; None: they have not."""
    own_processor: int | None = None
    """Of the thread that runs the engine's loop, where its others are bound to all but that."""
    extra: dict[str, str] = field(default_factory=dict)
    """More facts for ``/info``-like displays and logs."""
