"""``segue quantize``: a checkpoint with weights in few bits, and what that costs in perplexity."""

import gc
from collections.abc import Sequence as Seq
from dataclasses import dataclass
from pathlib import Path

from segue.core.config import ServeConfig
from segue.core.errors import ConfigError
from segue.core.options import option
from segue.core.request import SamplingParams
from segue.launcher.download import find_model
from segue.launcher.progress import BytesBar

__all__ = ["SHARED_OPTIONS", "QuantizeCommandOptions", "quantize"]

WINDOW_TOKENS = 512
SHARED_OPTIONS = (
    "revision",
    "trust_remote_code",
    "device",
    "num_threads",
    "huggingface_hub_cache",
    "weights_cache_override",
    "hf_hub_offline",
    "hf_endpoint",
)
"""Of ``segue serve``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizeCommandOptions:
    """How ``segue quantize`` rounds, and what it measures."""

    method: str = option("int8", "Bits of the weights.", group="Quantization", env=(), choices=("int8", "int4"))
    group_size: int = option(64, "int4: inputs that share a scale; 32, 64, 128 or 256.", group="Quantization", env=())
    round_activations: bool = option(
        True,
        "Write that activations are to be rounded to int8 too, which is faster; false: W8A16 or W4A16.",
        group="Quantization",
        env=(),
        metavar="BOOL",
    )
    text: str | None = option(
        None,
        "Measure the perplexity before and after on this file.",
        group="Quality",
        env=(),
        metavar="FILE",
    )
    text_tokens: int = option(8192, "Most tokens of the text that are read.", group="Quality", env=(), metavar="N")


def quantize(config: ServeConfig, output: str, options: QuantizeCommandOptions) -> None:
    """Write the model to the new folder ``output``, and print a table of what changed.

    Raises:
        ConfigError: the model or the options do not allow it.
        DownloadError: the model cannot be fetched.
    """
    from segue.models.config import HFConfig
    from segue.models.quantized_checkpoint import checkpoint_bytes, quantize_checkpoint
    from segue.models.registry import find_family
    from segue.quantization.methods import method_named

    if options.group_size not in (32, 64, 128, 256):
        raise ConfigError("`group_size` must be 32, 64, 128 or 256")
    method = method_named(options.method, int8_activations=options.round_activations, group=options.group_size)
    text = None if options.text is None else _read(Path(options.text))
    folder = find_model(config).folder
    family = find_family(HFConfig.from_folder(folder))
    if text is not None and family is not None and family.is_encoder_decoder:
        raise ConfigError("`text` is for models without an encoder: perplexity is that of continuing a text")
    with BytesBar("Rounding weights") as bar:
        quantize_checkpoint(folder, Path(output), method, bar.update)
    rows = [("weights", *(_size(checkpoint_bytes(each)) for each in (folder, Path(output))))]
    changes = [f"{checkpoint_bytes(Path(output)) / checkpoint_bytes(folder) - 1:+.0%}"]
    if text is not None:
        before, _ = _perplexity(config, folder, text, options.text_tokens)
        gc.collect()  # engine and runner refer to each other: without this both models are in memory at once
        after, num_tokens = _perplexity(config, Path(output), text, options.text_tokens)
        rows.append(("perplexity", f"{before:.3f}", f"{after:.3f}"))
        changes.append(f"{after / before - 1:+.2%}")
    print(f"{'':12}{'before':>12}{'after':>12}")
    for (name, old, new), change in zip(rows, changes, strict=True):
        print(f"{name:12}{old:>12}{new:>12}   {change}")
    if text is not None:
        print(f"{num_tokens:,} tokens of {options.text}, in windows of {WINDOW_TOKENS}")
    print(f"\nsegue serve {output}")


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"`text`: {path} cannot be read: {error}") from None


def _perplexity(config: ServeConfig, folder: Path, text: str, most_tokens: int) -> tuple[float, int]:
    """(perplexity, number of tokens read)."""
    from segue.launcher.llm import LLM
    from segue.quantization.perplexity import perplexity

    llm = LLM(
        str(folder),
        trust_remote_code=config.trust_remote_code,
        device=config.device,
        num_threads=config.num_threads,
        max_batch_total_tokens=8 * WINDOW_TOKENS,
    )
    window = min(WINDOW_TOKENS, llm.info.max_total_tokens - 1)
    params = SamplingParams(max_new_tokens=1, prompt_logprobs=True)

    def score(windows: Seq[Seq[int]]) -> list[Seq[float | None]]:
        return [output.prompt_logprobs or () for output in llm.generate(list(windows), params)]

    token_ids = llm.tokenizer.encode(text)[:most_tokens]
    if len(token_ids) < 2:
        raise ConfigError("`text` needs at least two tokens")
    return perplexity(score, token_ids, window), len(token_ids)


def _size(num_bytes: int) -> str:
    for unit, factor in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if num_bytes >= factor:
            return f"{num_bytes / factor:.2f} {unit}"
    return f"{num_bytes} B"
