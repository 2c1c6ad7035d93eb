"""The text of single tokens, for the decoders in which a token's text does not depend on its neighbours.

Byte-level BPE, sentencepiece-like and WordPiece decoders give each token (other than the first of a sequence) the same
text or bytes wherever it stands; only the bytes of a character that several tokens share need a look at the next token.
"""

import json
from typing import Any

__all__ = ["TokenPieces", "make_token_pieces"]


class TokenPieces(dict[int, str | bytes]):
    """id → its text, or its raw bytes when they are not whole characters. Filled on first use of each id."""

    __slots__ = ("_byte_level", "_fallback_bytes", "_left_context", "_tokenizer")

    def __init__(self, tokenizer: Any, *, is_byte_level: bool, has_byte_fallback: bool) -> None:
        super().__init__()
        self._tokenizer = tokenizer
        self._byte_level = _byte_level_alphabet() if is_byte_level else None
        self._fallback_bytes = {f"<0x{value:02X}>": bytes([value]) for value in range(256)} if has_byte_fallback else {}
        self._left_context = None if is_byte_level else _plain_token(tokenizer, self._fallback_bytes)

    @property
    def is_byte_level(self) -> bool:
        """Every token is bytes; otherwise only the 256 tokens ``<0x00>`` to ``<0xFF>`` are, if there are any."""
        return self._byte_level is not None

    def fallback_bytes(self, token_id: int) -> bytes | None:
        """The byte that one of the 256 byte tokens stands for."""
        return self._fallback_bytes.get(self._tokenizer.id_to_token(token_id))

    def __missing__(self, token_id: int) -> str | bytes:
        piece = self._piece(token_id)
        self[token_id] = piece
        return piece

    def _piece(self, token_id: int) -> str | bytes:
        token = self._tokenizer.id_to_token(token_id)
        if token is None:
            return ""
        if self._byte_level is not None:
            try:
                return _whole_text(bytes([self._byte_level[char] for char in token]))
            except KeyError:
                # An added token with a character outside the alphabet stands for itself.
                return str(token)
        if token in self._fallback_bytes:
            return _whole_text(self._fallback_bytes[token])
        context = [] if self._left_context is None else [self._left_context]
        prefix = self._tokenizer.decode(context, skip_special_tokens=False)
        text = self._tokenizer.decode([*context, token_id], skip_special_tokens=False)
        return str(text[len(prefix) :])


def make_token_pieces(tokenizer: Any) -> TokenPieces | None:
    """``tokenizer``: a ``tokenizers.Tokenizer``. None: its decoder looks at neighbours."""
    decoders = _flatten(_decoder_config(tokenizer))
    types = [decoder["type"] for decoder in decoders]
    if types == ["ByteLevel"]:
        return TokenPieces(tokenizer, is_byte_level=True, has_byte_fallback=False)
    if types in (["Metaspace"], ["WordPiece"]):
        return TokenPieces(tokenizer, is_byte_level=False, has_byte_fallback=False)
    if types and all(_is_context_free(decoder) for decoder in decoders):
        return TokenPieces(tokenizer, is_byte_level=False, has_byte_fallback="ByteFallback" in types)
    return None


def _decoder_config(tokenizer: Any) -> Any:
    decoder = tokenizer.decoder
    # A decoder pickles as its JSON configuration; the whole tokenizer's JSON would be megabytes of vocabulary.
    return None if decoder is None else json.loads(decoder.__getstate__())


def _flatten(decoder: Any) -> list[dict[str, Any]]:
    if decoder is None:
        return []
    if decoder["type"] == "Sequence":
        return [leaf for child in decoder["decoders"] for leaf in _flatten(child)]
    return [decoder]


def _is_context_free(decoder: dict[str, Any]) -> bool:
    """Of one decoder inside a sentencepiece-like sequence, for every token but the sequence's first."""
    match decoder["type"]:
        case "ByteFallback" | "Fuse":
            return True
        case "Replace":
            pattern = decoder["pattern"].get("String")
            # A pattern of several characters could match across two tokens once they are fused.
            return isinstance(pattern, str) and len(pattern) == 1
        case "Strip":
            return bool(decoder["start"] <= 1 and decoder["stop"] == 0)
        case _:
            return False


def _plain_token(tokenizer: Any, fallback_bytes: dict[str, bytes]) -> int | None:
    """Some id whose text is plain letters, to decode other ids behind."""
    for token_id in range(tokenizer.get_vocab_size(with_added_tokens=True)):
        token = tokenizer.id_to_token(token_id)
        if token is not None and token not in fallback_bytes and token.isascii() and token.isalpha():
            return token_id
    return None


def _whole_text(data: bytes) -> str | bytes:
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        return data
    # TGI holds back a text that ends in U+FFFD, even one that the model really wrote.
    return data if text.endswith("\ufffd") else text


def _byte_level_alphabet() -> dict[str, int]:
    """GPT-2's bijection of the 256 bytes to printable characters, inverted: character → byte."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAC + 1), *range(0xAE, 0xFF + 1)]
    alphabet = {chr(value): value for value in printable}
    others = (value for value in range(256) if value not in set(printable))
    return alphabet | {chr(256 + index): value for index, value in enumerate(others)}
