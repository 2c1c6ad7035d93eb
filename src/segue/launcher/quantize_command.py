"""``segue quantize``: a checkpoint with weights in few bits, and what that costs in perplexity."""

import gc
from collections.abc import Sequence as Seq
from dataclasses import dataclass
from pathlib import Path

from segue.core.config import ServeConfig
from segue.core.errors import ConfigError
from segue.core.options import option
from segue.core.request import SamplingParams
from segue.launcher.calibration_text import WINDOW_TOKENS, encoded, read_text
from segue.launcher.download import find_model
from segue.launcher.progress import BytesBar
from segue.launcher.quantize import calibrate

__all__ = ["SHARED_OPTIONS", "QuantizeCommandOptions", "quantize"]

METHODS = ("int8", "int4", "gptq")
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

    method: str = option(
        "int8",
        "Bits of the weights; gptq: 4 bits, calibrated with a text.",
        group="Quantization",
        env=(),
        choices=METHODS,
    )
    group_size: int = option(
        64, "int4 and gptq: inputs that share a scale; 32, 64, 128 or 256.", group="Quantization", env=()
    )
    round_activations: bool | None = option(
        None,
        "int8 and int4: write that activations are to be rounded to int8 too, which is faster and the default; false: "
        "W8A16 or W4A16.",
        group="Quantization",
        env=(),
        metavar="BOOL",
    )
    act_order: bool = option(
        False, "gptq: the inputs that matter most are rounded first.", group="Quantization", env=()
    )
    percdamp: float | None = option(
        None,
        "gptq: damping, as a share of the mean of the inputs' squares; default 0.01.",
        group="Quantization",
        env=(),
        metavar="SHARE",
    )
    text: str | None = option(
        None,
        "Measure the perplexity before and after on this file; gptq: on its second half, and calibrate with its "
        "first. Without it gptq calibrates with what the model writes.",
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
    from segue.models.quantized_checkpoint import checkpoint_bytes
    from segue.models.registry import find_family

    _check(options)
    text = None if options.text is None else read_text(Path(options.text))
    folder = find_model(config).folder
    family = find_family(HFConfig.from_folder(folder))
    if text is not None and family is not None and family.is_encoder_decoder:
        raise ConfigError("`text` is for models without an encoder: perplexity is that of continuing a text")
    token_ids = None if text is None else encoded(config, folder, text)
    if options.method == "gptq":
        half = None if token_ids is None else len(token_ids) // 2
        calibrate(
            config,
            folder,
            Path(output),
            None if token_ids is None else token_ids[:half],
            group=options.group_size,
            damping=options.percdamp,
            act_order=options.act_order,
        )
        token_ids = None if token_ids is None else token_ids[half:]
    else:
        _round(folder, Path(output), options)
    rows = [("weights", *(_size(checkpoint_bytes(each)) for each in (folder, Path(output))))]
    changes = [f"{checkpoint_bytes(Path(output)) / checkpoint_bytes(folder) - 1:+.0%}"]
    if token_ids is not None:
        token_ids = token_ids[: options.text_tokens]
        before = _perplexity(config, folder, token_ids)
        gc.collect()  # engine and runner refer to each other: without this both models are in memory at once
        after = _perplexity(config, Path(output), token_ids)
        rows.append(("perplexity", f"{before:.3f}", f"{after:.3f}"))
        changes.append(f"{after / before - 1:+.2%}")
    print(f"{'':12}{'before':>12}{'after':>12}")
    for (name, old, new), change in zip(rows, changes, strict=True):
        print(f"{name:12}{old:>12}{new:>12}   {change}")
    if token_ids is not None:
        print(f"{len(token_ids):,} tokens of {options.text}, in windows of {WINDOW_TOKENS}")
    print(f"\nsegue serve {output}")


def _check(options: QuantizeCommandOptions) -> None:
    """Raises ConfigError for an option that has no meaning for the method."""
    if options.group_size not in (32, 64, 128, 256):
        raise ConfigError("`group_size` must be 32, 64, 128 or 256")
    if options.method == "gptq":
        if options.round_activations is not None:
            raise ConfigError("`round_activations` is for int8 and int4; for gptq see `segue serve --int8-activations`")
    elif options.act_order or options.percdamp is not None:
        raise ConfigError("`act_order` and `percdamp` are for `--method gptq`")


def _round(folder: Path, output: Path, options: QuantizeCommandOptions) -> None:
    from segue.models.quantized_checkpoint import quantize_checkpoint
    from segue.quantization.methods import method_named

    method = method_named(
        options.method, int8_activations=options.round_activations is not False, group=options.group_size
    )
    with BytesBar("Rounding weights") as bar:
        quantize_checkpoint(folder, output, method, bar.update)


def _perplexity(config: ServeConfig, folder: Path, token_ids: Seq[int]) -> float:
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

    if len(token_ids) < 2:
        raise ConfigError("`text` needs at least two tokens")
    return perplexity(score, token_ids, window)


def _size(num_bytes: int) -> str:
    for unit, factor in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if num_bytes >= factor:
            return f"{num_bytes / factor:.2f} {unit}"
    return f"{num_bytes} B"
