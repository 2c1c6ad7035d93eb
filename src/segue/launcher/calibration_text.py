"""What GPTQ calibrates with: stretches of a text of the caller's, or of what the model itself has to say.

A model's own text is of the kind that it will be run on, and nothing has to be fetched (Liu et al. 2023, "LLM-QAT",
section 2.1: a random first token, the rest sampled).
"""

import gc
import random
from collections.abc import Sequence as Seq
from pathlib import Path

from segue.core.config import ServeConfig
from segue.core.errors import ConfigError
from segue.core.request import SamplingParams

__all__ = ["CALIBRATION_TOKENS", "WINDOW_TOKENS", "encoded", "own_text", "read_text", "windows_of"]

WINDOW_TOKENS = 512
CALIBRATION_TOKENS = 32_768
"""Most tokens to calibrate with."""


def read_text(path: Path) -> str:
    """Raises ConfigError where it cannot be read."""
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"`text`: {path} cannot be read: {error}") from None


def encoded(config: ServeConfig, folder: Path, text: str) -> list[int]:
    """Token ids of ``text`` for the model in ``folder``."""
    from segue.launcher.tokenizer_files import ensure_tokenizer
    from segue.text.tokenizer import Tokenizer

    return Tokenizer.from_folder(ensure_tokenizer(folder, trust_remote_code=config.trust_remote_code)).encode(text)


def windows_of(token_ids: Seq[int], max_positions: int | None) -> list[Seq[int]]:
    """The first ``CALIBRATION_TOKENS``, in stretches that the model can read.

    Raises:
        ConfigError: there is no token.
    """
    if not token_ids:
        raise ConfigError("`text` has no token to calibrate with")
    length = WINDOW_TOKENS if max_positions is None else min(WINDOW_TOKENS, max_positions)
    most = min(len(token_ids), CALIBRATION_TOKENS)
    return [token_ids[start : min(start + length, most)] for start in range(0, most, length)]


def own_text(config: ServeConfig, folder: Path) -> list[Seq[int]]:
    """Windows that the model writes, the same ones each time. Raises ConfigError where it cannot be loaded."""
    from segue.launcher.llm import LLM

    llm = LLM(
        str(folder),
        trust_remote_code=config.trust_remote_code,
        device=config.device,
        num_threads=config.num_threads,
        max_batch_total_tokens=32 * WINDOW_TOKENS,
        disable_weight_cache=True,
    )
    length = min(WINDOW_TOKENS, llm.info.max_total_tokens)
    chosen = random.Random(0)  # noqa: S311 - not a secret
    start = () if llm.info.bos_token_id is None else (llm.info.bos_token_id,)
    prompts = [[*start, chosen.randrange(llm.info.vocab_size)] for _ in range(-(-CALIBRATION_TOKENS // length))]
    params = [
        SamplingParams(max_new_tokens=length - len(prompt), do_sample=True, seed=seed, ignore_eos=True)
        for seed, prompt in enumerate(prompts)
    ]
    outputs = llm.generate(prompts, params)
    del llm
    gc.collect()  # engine and runner refer to each other
    return [(*prompt, *output.token_ids) for prompt, output in zip(prompts, outputs, strict=True)]
