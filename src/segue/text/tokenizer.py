"""Text to token ids and back, equal to ``transformers.AutoTokenizer`` on the same folder."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any

import tokenizers

from segue.core.errors import ConfigError, ValidationError
from segue.text.pieces import TokenPieces, make_token_pieces
from segue.text.tokenizer_files import TokenizerFiles, missing_tokens, read_tokenizer_files

__all__ = ["SHORT_TEXT_CHARS", "TokenSpan", "Tokenizer"]

SHORT_TEXT_CHARS = 1000
"""So many take a fraction of a millisecond: less than waking a thread, and the library's own thread, for them."""

# transformers writes int(1e30) where a model has no limit; any length above this one means the same.
_UNLIMITED_LENGTH = 10**9


@dataclass(frozen=True, slots=True)
class TokenSpan:
    """One token of TGI's ``/tokenize``. ``start`` and ``stop`` count the input's UTF-8 bytes.

    A token that is only a part of a character spans the whole character; one that stands for no input (BOS) has ""
    and 0, 0.
    """

    id: int
    text: str
    start: int
    stop: int


class Tokenizer:
    """The tokenizer of one model folder. Thread-safe.

    ``tokenizer.json`` decides what is added around a text (its post-processor), as in transformers 5, which ignores
    ``add_bos_token`` and ``add_eos_token`` of the config where that file exists. The file is also taken at its word
    where transformers 5 is not: that rebuilds the pre-tokenizer of ``LlamaTokenizer`` classes, so a file of the Llama 2
    era gives other ids there for a leading space and behind special tokens. Here it gives the ids that TGI gives.
    """

    def __init__(self, files: TokenizerFiles) -> None:
        self._backend = _make_backend(files)
        config = _with_class_defaults(files, self._backend)
        self._add_missing_tokens(files, config)
        self.bos_token = _token_content(config.get("bos_token"))
        self.eos_token = _token_content(config.get("eos_token"))
        self.bos_token_id = None if self.bos_token is None else self.token_to_id(self.bos_token)
        self.eos_token_id = None if self.eos_token is None else self.token_to_id(self.eos_token)
        self.chat_templates = files.chat_templates
        """Name → Jinja source; the one to use without further choice is named ``default``."""
        length = config.get("model_max_length", config.get("max_len"))
        self.model_max_length = int(length) if length is not None and length < _UNLIMITED_LENGTH else None
        """Tokens the model was made for, where the tokenizer config says so."""
        added = self._backend.get_added_tokens_decoder()
        self.skipped_token_ids = frozenset(token_id for token_id, token in added.items() if token.special)
        """What ``decode`` leaves out, if told to skip special tokens."""
        self.special_token_ids = frozenset(
            self.skipped_token_ids
            | {token_id for token_id in (self.bos_token_id, self.eos_token_id) if token_id is not None}
        )
        self.vocab_size: int = self._backend.get_vocab_size(with_added_tokens=True)
        """Number of ids, added tokens included."""

    @classmethod
    def from_folder(cls, path: str | Path, *, tokenizer_config_path: str | Path | None = None) -> "Tokenizer":
        """Read ``tokenizer.json`` and the config files beside it.

        ``tokenizer_config_path`` is read in place of the folder's ``tokenizer_config.json``.
        Raises ConfigError when a file is missing or wrong.
        """
        alternative = None if tokenizer_config_path is None else Path(tokenizer_config_path)
        return cls(read_tokenizer_files(Path(path), tokenizer_config_path=alternative))

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Raises ValidationError for a text that cannot be UTF-8 (a lone surrogate)."""
        ids: list[int] = self._encode(self._backend.encode_batch_fast, text, add_special_tokens).ids
        return ids

    def encode_with_offsets(self, text: str, *, add_special_tokens: bool = True) -> list[TokenSpan]:
        """As ``encode``, with the place of each token. Raises ValidationError as ``encode`` does."""
        encoding = self._encode(self._backend.encode_batch, text, add_special_tokens)
        byte_at = range(len(text) + 1) if text.isascii() else [0, *accumulate(_utf8_length(char) for char in text)]
        return [
            TokenSpan(token_id, text[start:stop], byte_at[start], byte_at[stop])
            for token_id, (start, stop) in zip(encoding.ids, encoding.offsets, strict=True)
        ]

    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool) -> str:
        """What transformers' ``decode(…, clean_up_tokenization_spaces=False)`` gives. Unknown ids give nothing."""
        text: str = self._backend.decode(token_ids, skip_special_tokens=skip_special_tokens)
        return text

    def token_to_id(self, token: str) -> int | None:
        token_id: int | None = self._backend.token_to_id(token)
        return token_id

    def id_to_token(self, token_id: int) -> str | None:
        """The vocabulary's own spelling, e.g. ``Ġthe`` or ``▁the``."""
        token: str | None = self._backend.id_to_token(token_id)
        return token

    def vocabulary(self) -> dict[str, int]:
        """The spelling of every token, added ones included → its id."""
        vocabulary: dict[str, int] = self._backend.get_vocab(with_added_tokens=True)
        return vocabulary

    def to_json(self) -> str:
        """The complete tokenizer in ``tokenizer.json`` form, the config's additions included."""
        text: str = self._backend.to_str()
        return text

    @cached_property
    def pieces(self) -> TokenPieces | None:
        """Texts of single tokens; None when this tokenizer's decoder looks at neighbours."""
        return make_token_pieces(self._backend)

    def _encode(self, encode_batch: Callable[..., Any], text: str, add_special_tokens: bool) -> Any:
        """By a method for batches: ``encode`` keeps the interpreter's lock, 4 seconds for a text of 1.5 MB."""
        try:
            if len(text) <= SHORT_TEXT_CHARS:
                return self._backend.encode(text, add_special_tokens=add_special_tokens)
            return encode_batch([text], add_special_tokens=add_special_tokens)[0]
        except Exception as error:
            raise ValidationError(f"tokenizer error {error}") from error

    def _add_missing_tokens(self, files: TokenizerFiles, config: dict[str, Any]) -> None:
        tokens = missing_tokens(files, config, self._backend.get_added_tokens_decoder())
        if tokens:
            self._backend.add_tokens(tokens)


def _make_backend(files: TokenizerFiles) -> Any:
    try:
        backend = tokenizers.Tokenizer.from_str(files.tokenizer_json)
    except Exception as error:
        raise ConfigError(f"tokenizer.json cannot be read: {error}") from error
    backend.no_truncation()
    backend.no_padding()
    backend.encode_special_tokens = bool(files.config.get("split_special_tokens", False))
    return backend


def _with_class_defaults(files: TokenizerFiles, backend: Any) -> dict[str, Any]:
    known = {key: token for key, token in files.class_defaults.items() if backend.token_to_id(token) is not None}
    return known | files.config


def _token_content(value: object) -> str | None:
    content = value.get("content") if isinstance(value, dict) else value
    return str(content) if content else None


def _utf8_length(char: str) -> int:
    code = ord(char)
    return 1 if code < 0x80 else 2 if code < 0x800 else 3 if code < 0x10000 else 4
