"""``LLM``: the engine in the caller's process, without HTTP."""

import dataclasses
import secrets
import threading
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from segue.core.config import ServeConfig, resolve
from segue.core.errors import GenerationError, ValidationError
from segue.core.options import option_table
from segue.core.output import FinishReason, RequestOutput, TokenOutput
from segue.core.request import Request, SamplingParams, StopCriteria
from segue.launcher.download import find_model
from segue.launcher.engine_child import build_engine
from segue.launcher.speculation import with_speculation
from segue.launcher.tokenizer_files import ensure_tokenizer

if TYPE_CHECKING:
    from tqdm import tqdm

__all__ = ["LLM", "LLM_OPTIONS", "GenerationOutput"]

Prompt = str | Sequence[int]

LLM_OPTIONS = frozenset(
    {
        "revision", "dtype", "quantize", "int8_activations", "trust_remote_code", "tokenizer_config_path",
        "rope_scaling", "rope_factor",
        "max_input_tokens", "max_total_tokens", "watermark_gamma", "watermark_delta",
        "max_batch_prefill_tokens", "max_batch_total_tokens", "max_batch_size", "prefix_caching", "block_size",
        "kv_cache_dtype",
        "speculate", "speculative_model",
        "device", "num_threads", "disable_weight_cache", "kv_cache_memory", "cuda_memory_fraction", "tgi_wiggle_room",
        "huggingface_hub_cache", "weights_cache_override", "hf_hub_offline", "hf_endpoint", "hf_token",
    }
)  # fmt: skip
"""The fields of ``ServeConfig`` that mean something without a server."""

LONG_LIST = 16
"""A progress bar is shown for more prompts than this."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class GenerationOutput:
    """What was generated for one prompt."""

    text: str
    """Special tokens left out; a stop string is kept, as in TGI."""
    token_ids: tuple[int, ...]
    finish_reason: FinishReason
    logprobs: tuple[float, ...]
    """One a token: natural log, of the processed distribution that it was chosen from."""
    prompt_token_ids: tuple[int, ...]
    """The prompt (for an encoder-decoder the encoder's input) as the model saw it."""
    top_tokens: tuple[tuple[tuple[int, float], ...], ...] = ()
    """For each token (id, logprob) of the likeliest, where ``top_n_tokens`` asked for them."""
    prompt_logprobs: tuple[float | None, ...] | None = None
    """One a prompt token, the first None, where ``prompt_logprobs`` asked for them."""
    num_cached_tokens: int = 0
    """Prompt tokens that came from the prefix cache."""
    seed: int | None = None
    """With it the same text comes again; None where nothing was sampled."""


class LLM:
    """A model ready to generate: ``LLM("path").generate("Once upon a time")``.

    ``model`` is a folder in Hugging Face layout, a name on the Hub, or a sample (``sample-chat``, ``sample-t5``).
    ``options`` are those of ``segue serve`` that concern the model and the memory (``LLM_OPTIONS``), e.g.
    ``dtype="bfloat16"``, ``max_total_tokens=4096``, ``kv_cache_memory="4GiB"``. Threads may share one object; their
    calls run one after the other.

    Raises TypeError for an unknown option, ConfigError and DownloadError when the model cannot be loaded.
    """

    def __init__(self, model: str, **options: Any) -> None:
        from segue.text.tokenizer import Tokenizer

        config = _config(model, options)
        config, source = with_speculation(config, find_model(config))
        folder = ensure_tokenizer(source.folder, trust_remote_code=config.trust_remote_code)
        self.tokenizer = Tokenizer.from_folder(folder, tokenizer_config_path=config.tokenizer_config_path)
        self._engine, self.info = build_engine(config, source.folder)
        self._next_id = 0
        self._lock = threading.Lock()
        self._has_news = threading.Event()
        self._engine.wake_with(self._has_news.set)

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        use_tqdm: bool = True,
    ) -> list[GenerationOutput]:
        """Continue every prompt, all of them batched; outputs come in the prompts' order.

        A prompt is a text or a list of token ids; one prompt alone gives a list of one. ``sampling_params`` are those
        of all prompts, or one for each; default: greedy, as long as the model's limit allows.

        Raises ValidationError for a prompt or parameters that cannot be used, before anything runs, and
        GenerationError when the engine fails one; the others are then given up.
        """
        texts_or_ids = _as_list(prompts)
        if sampling_params is None or isinstance(sampling_params, SamplingParams):
            all_params: Sequence[SamplingParams] = [sampling_params or SamplingParams()] * len(texts_or_ids)
        else:
            all_params = sampling_params
        if len(all_params) != len(texts_or_ids):
            raise ValidationError(f"{len(texts_or_ids)} prompts, but {len(all_params)} sampling parameters")
        with self._lock:
            sequences = [self._admit(each, params) for each, params in zip(texts_or_ids, all_params, strict=True)]
            with _progress(len(sequences) if use_tqdm else 0) as bar:
                self._run({sequence.request.request_id: sequence for sequence in sequences}, bar)
        return [sequence.output() for sequence in sequences]

    def _admit(self, prompt: Prompt, params: SamplingParams) -> "_Sequence":
        ids = tuple(self.tokenizer.encode(prompt) if isinstance(prompt, str) else prompt)
        info = self.info
        if not ids:
            raise ValidationError("a prompt cannot be empty")
        if not all(0 <= token_id < info.vocab_size for token_id in ids):
            raise ValidationError(f"token ids must be at least 0 and below the vocabulary's size, {info.vocab_size}")
        room = info.max_total_tokens - len(ids)
        if len(ids) > info.max_input_tokens or room < 1:
            raise ValidationError(f"a prompt must have at most {info.max_input_tokens} tokens, this one has {len(ids)}")
        max_new_tokens = room if params.max_new_tokens is None else params.max_new_tokens
        if not 1 <= max_new_tokens <= room:
            raise ValidationError(
                f"`max_new_tokens` must be at least 1, and with the prompt at most {info.max_total_tokens}. "
                f"Given: {len(ids)} prompt tokens and {max_new_tokens} `max_new_tokens`"
            )
        _check(params)
        if params.seed is None:
            params = dataclasses.replace(params, seed=secrets.randbits(64))
        self._next_id += 1
        request = Request(
            request_id=self._next_id,
            prompt_token_ids=info.decoder_start_token_ids if info.is_encoder_decoder else ids,
            encoder_token_ids=ids if info.is_encoder_decoder else None,
            sampling=params,
            stop=StopCriteria(
                max_new_tokens=max_new_tokens,
                eos_token_ids=frozenset() if params.ignore_eos else frozenset(info.eos_token_ids),
            ),
        )
        return _Sequence(self, request, ids)

    def _run(self, waiting: "dict[int, _Sequence]", bar: "tqdm") -> None:
        """Until ``waiting`` is empty; whatever ends it early, the engine holds nothing of it afterwards."""
        try:
            for sequence in waiting.values():
                self._engine.add(sequence.request)
            while waiting:
                self._has_news.clear()
                step = self._engine.step()
                if step is None:  # all that wait do so for their grammars
                    self._has_news.wait()
                    continue
                for output in step.outputs:
                    sequence = waiting[output.request_id]
                    sequence.push(output)
                    if sequence.finish_reason is not None:
                        if output.finish_reason is None:  # a stop string, of which the engine knows nothing
                            self._engine.abort([output.request_id])
                        del waiting[output.request_id]
                        bar.update()
        finally:
            self._engine.abort(list(waiting))


class _Sequence:
    """One prompt's tokens, as they come."""

    def __init__(self, llm: LLM, request: Request, prompt_ids: tuple[int, ...]) -> None:
        from segue.text.detokenizer import IncrementalDetokenizer
        from segue.text.stop_strings import StopMatcher

        self.request = request
        self._prompt_ids = prompt_ids
        self._tokenizer = llm.tokenizer
        self._stops = StopMatcher(request.sampling.stop) if request.sampling.stop else None
        self._detokenizer = IncrementalDetokenizer(llm.tokenizer, request.prompt_token_ids)
        self._tokens: list[TokenOutput] = []
        self._first: RequestOutput | None = None
        self.finish_reason: FinishReason | None = None

    def push(self, output: RequestOutput) -> None:
        """Raises GenerationError when the request failed."""
        if output.error is not None:
            raise GenerationError(output.error)
        if self._first is None and output.tokens:
            self._first = output
        for number, token in enumerate(output.tokens, start=1):
            self._tokens.append(token)
            if self._stops is not None and self._stops.push(self._detokenizer.push(token.token_id)) is not None:
                # TGI's order: the length and EOS go before a stop string that the same token completes.
                is_last = number == len(output.tokens) and output.finish_reason is not None
                self.finish_reason = output.finish_reason if is_last else FinishReason.STOP_SEQUENCE
                return
        self.finish_reason = output.finish_reason

    def output(self) -> GenerationOutput:
        from segue.text.detokenizer import generated_text

        assert self.finish_reason is not None
        assert self._first is not None
        token_ids = tuple(token.token_id for token in self._tokens)
        sampling = self.request.sampling
        return GenerationOutput(
            text=generated_text(self._tokenizer, self.request.prompt_token_ids, token_ids),
            token_ids=token_ids,
            finish_reason=self.finish_reason,
            logprobs=tuple(token.logprob for token in self._tokens),
            prompt_token_ids=self._prompt_ids,
            top_tokens=tuple(token.top_tokens for token in self._tokens) if sampling.top_n_tokens else (),
            prompt_logprobs=self._first.prompt_logprobs,
            num_cached_tokens=self._first.num_cached_tokens,
            seed=sampling.seed if sampling.is_sampling else None,
        )


def _config(model: str, options: dict[str, Any]) -> ServeConfig:
    unknown = sorted(options.keys() - LLM_OPTIONS)
    if unknown:
        raise TypeError(f"LLM() got an unexpected option: {', '.join(unknown)}")
    table = {entry.name: entry for entry in option_table(ServeConfig)}
    # "4GiB" means the same here as on the command line.
    parsed = {
        name: table[name].parse(value, name) if isinstance(value, str) and table[name].kind is not str else value
        for name, value in options.items()
    }
    return resolve({"model_id": str(model), **parsed})


def _as_list(prompts: Prompt | Sequence[Prompt]) -> list[Prompt]:
    if isinstance(prompts, str) or (len(prompts) > 0 and isinstance(prompts[0], int)):
        return [prompts]  # type: ignore[list-item]
    return list(prompts)  # type: ignore[arg-type]


def _check(params: SamplingParams) -> None:
    """What the server refuses on the wire."""
    rules: Iterable[tuple[bool, str]] = (
        (params.temperature > 0, "`temperature` must be strictly positive"),
        (params.repetition_penalty > 0, "`repetition_penalty` must be strictly positive"),
        (-2 <= params.frequency_penalty <= 2, "`frequency_penalty` must be >= -2.0 and <= 2.0"),
        (params.top_k >= 0, "`top_k` must be >= 0"),
        (0 < params.top_p <= 1, "`top_p` must be > 0.0 and <= 1.0"),
        (0 < params.typical_p <= 1, "`typical_p` must be > 0.0 and <= 1.0"),
        (params.top_n_tokens >= 0, "`top_n_tokens` must be >= 0"),
        (params.seed is None or 0 <= params.seed < 2**64, "`seed` must have 64 bits"),
    )
    for is_kept, text in rules:
        if not is_kept:
            raise ValidationError(text)


def _progress(num_prompts: int) -> "tqdm":
    from tqdm import tqdm

    return tqdm(total=num_prompts, desc="Generating", unit="prompt", disable=True if num_prompts <= LONG_LIST else None)
