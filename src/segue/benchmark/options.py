"""What is measured: the options of ``text-generation-benchmark``, TGI's names and defaults."""

import functools
from dataclasses import dataclass

from segue.core.errors import ConfigError
from segue.core.options import option
from segue.core.request import SamplingParams

__all__ = ["BenchmarkOptions"]

_what = functools.partial(option, group="What to measure")
_how = functools.partial(option, group="How tokens are chosen")


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchmarkOptions:
    """All of them; ``check`` says what cannot be."""

    tokenizer_name: str | None = _what(
        None, "The model that the engine runs, a folder or a name on the Hub.", short="-t"
    )
    revision: str = _what("main", "Its commit, branch or refs/pr/N on the Hub.")
    batch_size: tuple[int, ...] = _what(
        (1, 2, 4, 8, 16, 32), "Sequences that run together; may be repeated.", short="-b", metavar="N"
    )
    sequence_length: int = _what(10, "Tokens of each prompt.", short="-s")
    decode_length: int = _what(8, "Tokens to generate for each.", short="-d")
    runs: int = _what(10, "Measured runs of each batch size.", short="-r")
    warmups: int = _what(1, "Runs before them that do not count.", short="-w")
    master_shard_uds_path: str = _what(
        "/tmp/text-generation-server-0",  # noqa: S108
        "Socket of the engine, of text-generation-launcher or of text-generation-server serve.",
        short="-m",
        metavar="PATH",
    )
    temperature: float | None = _how(None, "Divides the logits.", metavar="F")
    top_k: int | None = _how(None, "Keep the k likeliest tokens.")
    top_p: float | None = _how(None, "Keep the likeliest tokens up to this mass.", metavar="F")
    typical_p: float | None = _how(None, "Keep the most typical tokens up to this mass.", metavar="F")
    repetition_penalty: float | None = _how(None, "Makes tokens that were seen less likely.", metavar="F")
    frequency_penalty: float | None = _how(None, "Makes frequent tokens less likely.", metavar="F")
    watermark: bool = _how(False, "Watermark the text.")
    do_sample: bool = _how(False, "Choose by chance, not the likeliest.")
    top_n_tokens: int | None = _how(None, "Give so many of the likeliest tokens with each.")

    def check(self) -> None:
        """Raises ConfigError for numbers that measure nothing."""
        if self.tokenizer_name is None:
            raise ConfigError("`tokenizer_name` must be given")
        for name in ("sequence_length", "runs"):
            if getattr(self, name) < 1:
                raise ConfigError(f"`{name}` must be > 0")
        if self.decode_length < 2:
            raise ConfigError("`decode_length` must be > 1: the first token is the prefill's")
        if self.warmups < 0:
            raise ConfigError("`warmups` must be >= 0")
        if not self.batch_size or min(self.batch_size) < 1:
            raise ConfigError("`batch_size` must be > 0")

    def sampling(self) -> SamplingParams:
        """EOS does not end a sequence: each gets all its tokens."""
        return SamplingParams(
            max_new_tokens=self.decode_length,
            do_sample=self.do_sample,
            temperature=1.0 if self.temperature is None else self.temperature,
            top_k=self.top_k or 0,
            top_p=1.0 if self.top_p is None else self.top_p,
            typical_p=1.0 if self.typical_p is None else self.typical_p,
            repetition_penalty=1.0 if self.repetition_penalty is None else self.repetition_penalty,
            frequency_penalty=self.frequency_penalty or 0.0,
            watermark=self.watermark,
            seed=0,
            top_n_tokens=self.top_n_tokens or 0,
            ignore_eos=True,
        )
