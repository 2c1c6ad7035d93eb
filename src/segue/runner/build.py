"""From a ``RunnerConfig`` to a runner that is ready to execute: device, dtype, weights, KV pool, warm-up."""

import dataclasses
import json
import logging
import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from segue.core.batch import EncoderInput, ScheduledBatch, ScheduledSequence
from segue.core.errors import ConfigError
from segue.core.request import SamplingParams
from segue.models.base import Model
from segue.models.config import HFConfig
from segue.models.guessing_heads import GuessingHeads, holds_heads, load_heads
from segue.models.loader import Progress, load_weights
from segue.models.registry import find_family
from segue.quantization.formats import Quantization, find_quantization
from segue.runner import kv_cache, memory
from segue.runner.config import RunnerConfig
from segue.runner.draft_model import DraftModel
from segue.runner.drafting import Drafter, HeadDrafter
from segue.runner.input_batch import KVCaches
from segue.runner.model_runner import ModelRunner
from segue.runner.native_model import is_native, use_threads
from segue.sampling.grammar import GrammarStates
from segue.sampling.grammar_compiler import GrammarCompiler
from segue.sampling.sampler import Sampler

__all__ = ["ModelFacts", "build_runner", "chosen_device", "set_threads"]

logger = logging.getLogger(__name__)

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts:
    """What the engine and the server need to know of the loaded model."""

    model_type: str
    is_encoder_decoder: bool
    dtype: str
    quantize: str | None
    """How the weights come to have few bits, in the words of ``--quantize``; None: they have not."""
    device: str
    device_name: str
    vocab_size: int
    max_positions: int | None
    """Most tokens of one sequence, None where the model sets no limit."""
    block_size: int
    num_blocks: int
    eos_token_ids: tuple[int, ...]
    bos_token_id: int | None
    decoder_start_token_ids: tuple[int, ...]
    long_prompt_boundary: int | None


def build_runner(
    config: RunnerConfig, progress: Progress | None = None, tokenizer_json: Callable[[], str] | None = None
) -> tuple[ModelRunner, ModelFacts]:
    """Load the model and allocate its cache.

    ``tokenizer_json`` gives the model's ``tokenizer.json``, for the first grammar; None: there are to be none.

    Raises:
        ConfigError: the folder, the dtype or the memory does not allow it; the text says what to change.
    """
    set_threads(config.num_threads)
    device = chosen_device(config.device)
    hf_config = _with_rope_overrides(HFConfig.from_folder(config.model_folder), config)
    dtype = _dtype(config.dtype, hf_config, device)
    quantization = find_quantization(
        config.model_folder, hf_config.values, config.quantize, int8_activations=config.int8_activations
    )
    if device.type == "cpu":
        memory.return_freed_memory()
    model = _load(config, hf_config, dtype, device, quantization, progress)
    draft, heads = _load_speculation(config, hf_config, model, device)
    # Both pools have the same number of blocks.
    cached = dtype if quantization is None else _cache_dtype_of_quantized(config, hf_config, dtype, device)
    pools = [(model, kv_cache.cache_dtype(config.kv_cache_dtype, cached, device))]
    if draft is not None:
        pools.append((draft, kv_cache.cache_dtype(config.kv_cache_dtype, draft.dtype, device)))
    per_block = sum(kv_cache.bytes_per_block(m.kv_layers, config.block_size, cache_dtype) for m, cache_dtype in pools)
    if device.type == "cuda":
        num_blocks = _measured_blocks(model, config, device, dtype, per_block)
    else:
        num_blocks = _num_blocks(config, model, per_block, memory.available_bytes(device), device)
    quantize = None if quantization is None else quantization.name
    facts = _facts(config, hf_config, model, dtype, quantize, device, num_blocks)
    grammars = None
    if tokenizer_json is not None and facts.eos_token_ids:
        grammars = GrammarCompiler(tokenizer_json, model.vocab_size, facts.eos_token_ids)
    caches = [
        kv_cache.allocate(
            m.kv_layers, num_blocks, config.block_size, cache_dtype, device, by_heads=is_native(m, device)
        )
        for m, cache_dtype in pools
    ]
    drafter: Drafter | None = None if heads is None else HeadDrafter(heads)
    if draft is not None:
        drafter = DraftModel(draft, caches[1], config.block_size, device)
    runner = _runner(model, config, caches[0], device, grammars, drafter)
    if device.type == "cpu":
        memory.keep_freed_memory()  # from here on: what loading freed goes back to the system
    logger.info("Warming up model")
    _dry_run(runner, 8)
    return runner, facts


def _load(
    config: RunnerConfig,
    hf_config: HFConfig,
    dtype: torch.dtype,
    device: torch.device,
    quantization: Quantization | None,
    progress: Progress | None,
) -> Model:
    family = find_family(hf_config)
    if family is None:
        if quantization is not None:
            raise ConfigError(f"{quantization.name} quantization is not supported for AutoModel")
        from segue.models.fallback import load_fallback

        return load_fallback(
            config.model_folder, hf_config, dtype=dtype, device=device, trust_remote_code=config.trust_remote_code
        )
    model = family(hf_config)
    load_weights(
        model,
        config.model_folder,
        dtype=dtype,
        device=device,
        quantization=quantization,
        cache_folder=config.weight_cache,
        progress=progress,
    )
    return model.eval()


def _runner(
    model: Model,
    config: RunnerConfig,
    caches: KVCaches,
    device: torch.device,
    grammars: GrammarCompiler | None = None,
    drafter: Drafter | None = None,
) -> ModelRunner:
    sampler = Sampler(
        model.vocab_size,
        watermark_gamma=config.watermark_gamma,
        watermark_delta=config.watermark_delta,
        grammars=None if grammars is None else GrammarStates(grammars),
    )
    return ModelRunner(model, caches, config.block_size, device, sampler, grammars, drafter)


def _load_speculation(
    config: RunnerConfig, hf_config: HFConfig, model: Model, device: torch.device
) -> tuple[Model | None, GuessingHeads | None]:
    """A draft model, or heads for ``model``, or neither. Raises ConfigError where they cannot work together; that
    vocabularies are equal is known already."""
    folder = config.draft_model_folder
    if folder is None:
        return None, None
    if model.is_encoder_decoder:
        raise ConfigError("`speculative_model` is for models without an encoder; `speculate` alone works with both")
    draft_config = HFConfig.from_folder(folder)
    if not holds_heads(draft_config):
        return _load_draft(config, draft_config, folder, device), None
    if find_family(hf_config) is None:
        raise ConfigError("Speculative heads are not supported for AutoModel")
    dtype = torch.float32 if device.type == "cpu" else model.dtype
    return None, load_heads(folder, hf_config.integer("hidden_size"), dtype, device)


def _load_draft(config: RunnerConfig, hf_config: HFConfig, folder: Path, device: torch.device) -> Model:
    draft_config = dataclasses.replace(config, model_folder=folder)
    quantization = find_quantization(folder, hf_config.values, None)
    draft = _load(draft_config, hf_config, _dtype(config.dtype, hf_config, device), device, quantization, None)
    if draft.is_encoder_decoder:
        raise ConfigError(f"{folder} has an encoder: it cannot be a `speculative_model`")
    return draft


def _num_blocks(config: RunnerConfig, model: Model, per_block: int, free_bytes: int, device: torch.device) -> int:
    if config.max_batch_total_tokens is not None:
        blocks = -(-config.max_batch_total_tokens // config.block_size)
    else:
        budget = config.kv_cache_bytes or memory.default_kv_cache_bytes(device, config.memory_fraction)
        blocks = budget // per_block
        most = config.max_total_tokens or model.max_positions
        if most is not None:  # no more than a full batch of the longest sequences can ever use
            blocks = min(blocks, config.max_batch_size * -(-most // config.block_size))
    if blocks * per_block > free_bytes:
        raise ConfigError(
            f"Not enough memory to handle `max_batch_total_tokens={blocks * config.block_size}`: the KV cache would "
            f"take {blocks * per_block / 2**30:.1f} GiB, {free_bytes / 2**30:.1f} GiB are free"
        )
    if blocks < 1:
        raise ConfigError("Not enough memory for the KV cache: not one block fits")
    return blocks


def _measured_blocks(
    model: Model, config: RunnerConfig, device: torch.device, dtype: torch.dtype, per_block: int
) -> int:
    """GPU: what is left after a worst-case step, so that no later step can run out of memory."""
    tokens = config.max_batch_prefill_tokens
    if model.max_positions is not None:
        tokens = min(tokens, model.max_positions)
    num_blocks = -(-tokens // config.block_size) * 2
    caches = kv_cache.allocate(model.kv_layers, num_blocks, config.block_size, dtype, device)
    scratch = _runner(model, config, caches, device)
    del caches
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    try:
        _dry_run(scratch, tokens)
    except torch.cuda.OutOfMemoryError:
        raise ConfigError(
            f"Not enough memory to handle {tokens} prefill tokens. You need to decrease `--max-batch-prefill-tokens`"
        ) from None
    activations = torch.cuda.max_memory_allocated(device) - before
    del scratch
    torch.cuda.empty_cache()
    free = memory.available_bytes(device) - activations
    return _num_blocks(config, model, per_block, max(0, int(free * config.memory_fraction)), device)


def _dry_run(runner: ModelRunner, num_tokens: int) -> None:
    """One prefill of ``num_tokens`` (also through the encoder), so that the first request finds everything warm."""
    size = runner.block_size
    blocks = list(range(-(-num_tokens // size)))
    if 2 * len(blocks) > runner.kv_caches[0][0].shape[0]:
        return
    ids = [0] * num_tokens
    encoder = None
    if runner.model.is_encoder_decoder:
        encoder = EncoderInput(token_ids=ids, block_table=[b + len(blocks) for b in blocks], run=True)
    sequence = ScheduledSequence(
        seq_id=0,
        token_ids=ids if encoder is None else ids[:1],
        num_computed_tokens=0,
        block_table=blocks,
        sampling=SamplingParams(),
        needs_token=True,
        history=ids,
        num_prompt_tokens=num_tokens,
        seed=0,
        encoder=encoder,
    )
    runner.execute(ScheduledBatch(sequences=[sequence], num_decode_sequences=0))


def set_threads(num_threads: int | None) -> None:
    """Of ``--num-threads``, for PyTorch and native kernels; None: PyTorch's own choice."""
    if num_threads is not None:
        torch.set_num_threads(num_threads)
    use_threads(torch.get_num_threads())


def chosen_device(name: str) -> torch.device:
    """Of ``--device``. Raises ConfigError for one that is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(f"unknown device {name!r}; use auto, cpu, cuda or cuda:N") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"device {name!r} asked for, but PyTorch sees no CUDA device")
    return device


def _dtype(name: str | None, config: HFConfig, device: torch.device) -> torch.dtype:
    """float32 on CPU, where it is exact and not slower without bf16 arithmetic; on a GPU the checkpoint's own."""
    if name is not None:
        if name not in DTYPES:
            raise ConfigError(f"unknown dtype {name!r}; use one of {', '.join(DTYPES)}")
        return DTYPES[name]
    if device.type == "cpu":
        return torch.float32
    stored = _stored_dtype(config)
    return torch.bfloat16 if stored is None or stored == torch.float32 else stored


def _stored_dtype(config: HFConfig) -> torch.dtype | None:
    """The checkpoint's own, where config.json names it."""
    return DTYPES.get(str(config.values.get("dtype") or config.values.get("torch_dtype")))


def _cache_dtype_of_quantized(
    config: RunnerConfig, hf_config: HFConfig, computing: torch.dtype, device: torch.device
) -> torch.dtype:
    """The checkpoint's 16 bits, as in TGI: half the bytes of float32, and finer than what became of the weights."""
    stored = _stored_dtype(hf_config)
    is_asked = config.dtype is not None or device.type != "cpu"
    return computing if is_asked or stored is None else stored


def _with_rope_overrides(config: HFConfig, runner: RunnerConfig) -> HFConfig:
    """TGI's ``--rope-scaling`` and ``--rope-factor`` take the place of config.json's scaling (spec 9.5)."""
    if runner.rope_scaling is None and runner.rope_factor is None:
        return config
    scaling = {"rope_type": runner.rope_scaling or "linear", "factor": runner.rope_factor or 1.0}

    def override(stored: Mapping[str, Any]) -> dict[str, Any]:
        if any(isinstance(value, Mapping) for value in stored.values()):  # one set a kind of layer (Gemma 3)
            return {key: override(value) if isinstance(value, Mapping) else value for key, value in stored.items()}
        return {key: stored[key] for key in ("rope_theta", "partial_rotary_factor") if key in stored} | scaling

    values = {key: value for key, value in config.values.items() if key != "rope_scaling"}
    return HFConfig({**values, "rope_parameters": override(config.values.get("rope_parameters") or {})})


def _facts(
    config: RunnerConfig,
    hf_config: HFConfig,
    model: Model,
    dtype: torch.dtype,
    quantize: str | None,
    device: torch.device,
    num_blocks: int,
) -> ModelFacts:
    generation = _generation_config(config.model_folder)
    bos = generation.token_ids("bos_token_id") or hf_config.token_ids("bos_token_id")
    start: tuple[int, ...] = ()
    if model.is_encoder_decoder:
        start = (
            generation.token_ids("decoder_start_token_id") or hf_config.token_ids("decoder_start_token_id") or bos
        )[:1]
        if not start:
            raise ConfigError("an encoder-decoder needs `decoder_start_token_id` in config.json")
        start += generation.token_ids("forced_bos_token_id")[:1]
    return ModelFacts(
        model_type=hf_config.model_type,
        is_encoder_decoder=model.is_encoder_decoder,
        dtype=str(dtype).removeprefix("torch."),
        quantize=quantize,
        device=str(device),
        device_name=_device_name(device),
        vocab_size=model.vocab_size,
        max_positions=model.max_positions,
        block_size=config.block_size,
        num_blocks=num_blocks,
        eos_token_ids=generation.token_ids("eos_token_id") or hf_config.token_ids("eos_token_id"),
        bos_token_id=bos[0] if bos else None,
        decoder_start_token_ids=start,
        long_prompt_boundary=model.long_prompt_boundary,
    )


def _generation_config(folder: Path) -> HFConfig:
    path = folder / "generation_config.json"
    return HFConfig(json.loads(path.read_text("utf-8"))) if path.exists() else HFConfig({})


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"cpu-{platform.machine()}"
