"""Token ids to text, one at a time, in the words of TGI's ``Token.text`` (spec 3.1)."""

from codecs import getincrementaldecoder
from collections.abc import Callable, Sequence
from typing import cast

from segue.text.pieces import TokenPieces
from segue.text.tokenizer import Tokenizer

__all__ = ["IncrementalDetokenizer", "generated_text"]

_REPLACEMENT = "\ufffd"
# Bounds the window of a model that writes U+FFFD for ever; far more tokens than one character can have.
_MAX_HELD_TOKENS = 64
_PROMPT_TAIL_TOKENS = 5


class IncrementalDetokenizer:
    """The text of each new token given what came before it. One per sequence; not thread-safe.

    Special tokens have text too. A token that ends inside a character gives "" and the one that completes it gives the
    whole character; what is still incomplete at the very end is never given. A sentencepiece token keeps its leading
    space unless it is the first of all.
    """

    __slots__ = ("_strategy", "push")

    def __init__(self, tokenizer: Tokenizer, prompt_tail_ids: Sequence[int]) -> None:
        """``prompt_tail_ids``: the last ids before the first new one; five are enough, more do not harm."""
        tail = list(prompt_tail_ids[-_PROMPT_TAIL_TOKENS:])
        pieces = tokenizer.pieces
        self._strategy: _ByteLevel | _ByteFallback | _Windowed
        if pieces is None:
            self._strategy = _Windowed(tokenizer, tail)
        elif pieces.is_byte_level:
            self._strategy = _ByteLevel(pieces, tail)
        else:
            self._strategy = _ByteFallback(tokenizer, pieces, tail)
        self.push: Callable[[int], str] = self._strategy.push
        """The text of the next token."""

    @property
    def is_plain(self) -> bool:
        """The text of the next token is its piece, if that is a text; such a token need not be pushed."""
        return self._strategy.is_plain


def generated_text(tokenizer: Tokenizer, prompt_tail_ids: Sequence[int], token_ids: Sequence[int]) -> str:
    """TGI's ``generated_text``: all of ``token_ids`` decoded after the prompt's last token, special tokens skipped.

    This is ``tokenizer.decode(token_ids, skip_special_tokens=True)``, but that a sentencepiece text keeps its leading
    space when the prompt ends in an ordinary token. It equals the pushed texts of all tokens that are not special,
    joined, when it ends in a whole character and the prompt ends in an ordinary token.
    """
    pieces = tokenizer.pieces
    if pieces is not None:
        kept = [token_id for token_id in token_ids if token_id not in tokenizer.skipped_token_ids]
        texts = [pieces[token_id] for token_id in kept]
        # The first one's text hangs on what is before it. Of 128 tokens this takes a quarter of the time.
        if len(texts) > 1 and texts[0] and set(map(type, texts)) == {str}:
            return _decode_behind(tokenizer, prompt_tail_ids, kept[:1]) + "".join(cast("list[str]", texts[1:]))
    return _decode_behind(tokenizer, prompt_tail_ids, token_ids)


def _decode_behind(tokenizer: Tokenizer, prompt_tail_ids: Sequence[int], token_ids: Sequence[int]) -> str:
    last = list(prompt_tail_ids[-1:])
    prefix = tokenizer.decode(last, skip_special_tokens=True)
    if not prefix or prefix.endswith(_REPLACEMENT):
        return tokenizer.decode(token_ids, skip_special_tokens=True)
    return tokenizer.decode([*last, *token_ids], skip_special_tokens=True)[len(prefix) :]


class _ByteLevel:
    """Tokens are runs of bytes; bytes that are no UTF-8 become U+FFFD, one for each maximal subpart."""

    __slots__ = ("_held", "_is_holding", "_pieces", "_prompt_bytes", "_utf8")

    def __init__(self, pieces: TokenPieces, tail: list[int]) -> None:
        self._pieces = pieces
        self._utf8 = getincrementaldecoder("utf-8")("replace")
        self._held: list[str] = []
        self._prompt_bytes = _incomplete_tail(pieces, tail)
        self._is_holding = bool(self._prompt_bytes)

    @property
    def is_plain(self) -> bool:
        return not self._is_holding

    def push(self, token_id: int) -> str:
        piece = self._pieces[token_id]
        if not self._is_holding and piece.__class__ is str:
            return piece
        return self._join(piece if isinstance(piece, bytes) else piece.encode())

    def _join(self, data: bytes) -> str:
        if self._prompt_bytes:
            if _continues_character(data):
                self._utf8.decode(self._prompt_bytes)
            self._prompt_bytes = b""
        text = self._utf8.decode(data)
        if text:
            self._held.append(text)
        is_inside_character = bool(self._utf8.getstate()[0])
        self._is_holding = is_inside_character or (bool(self._held) and self._held[-1].endswith(_REPLACEMENT))
        if self._is_holding:
            return ""
        result = "".join(self._held)
        self._held.clear()
        return result


class _ByteFallback:
    """Tokens are texts, and bytes for what the vocabulary cannot spell; also any decoder without byte tokens.

    A run of byte tokens that is no UTF-8 becomes one U+FFFD a byte, once it ends.
    """

    __slots__ = ("_is_first", "_num_held_bytes", "_pieces", "_prompt_bytes", "_run", "_tokenizer", "_utf8", "is_plain")

    def __init__(self, tokenizer: Tokenizer, pieces: TokenPieces, tail: list[int]) -> None:
        self._tokenizer = tokenizer
        self._pieces = pieces
        self._utf8 = getincrementaldecoder("utf-8")("strict")
        self._prompt_bytes = _incomplete_tail(pieces, tail)
        self._num_held_bytes = 0
        self._run: list[str] | None = []
        """What the held bytes spell; None: they are no UTF-8."""
        self._is_first = not tail
        """The decoder strips the very first token's leading space."""
        self.is_plain = bool(tail) and not self._prompt_bytes
        """The next token's text, unless it is a byte, is its piece."""

    def push(self, token_id: int) -> str:
        piece = self._pieces[token_id]
        if self.is_plain and piece.__class__ is str:
            return piece
        data = self._pieces.fallback_bytes(token_id)
        if data is not None:
            return self._push_bytes(data)
        text = self._tokenizer.decode([token_id], skip_special_tokens=False) if self._is_first else str(piece)
        return self._end_run(_REPLACEMENT * self._num_held_bytes + text)

    def _push_bytes(self, data: bytes) -> str:
        self.is_plain = self._is_first = False
        self._num_held_bytes += len(data)
        if self._run is None:
            return ""
        if self._prompt_bytes:
            if _continues_character(data):
                self._utf8.decode(self._prompt_bytes)
            self._prompt_bytes = b""
        try:
            self._run.append(self._utf8.decode(data))
        except UnicodeDecodeError:
            self._run = None
            return ""
        is_inside_character = bool(self._utf8.getstate()[0])
        return "" if is_inside_character else self._end_run("".join(self._run))

    def _end_run(self, text: str) -> str:
        self._utf8.reset()
        self._prompt_bytes = b""
        self._num_held_bytes = 0
        self._run = []
        self._is_first = False
        self.is_plain = True
        return text


class _Windowed:
    """For any other decoder, TGI's algorithm: decode a short window with and without the new tokens."""

    __slots__ = ("_num_read", "_tokenizer", "_window")
    is_plain = False

    def __init__(self, tokenizer: Tokenizer, tail: list[int]) -> None:
        self._tokenizer = tokenizer
        self._window = tail
        self._num_read = len(tail)
        """Ids of the window whose text was given before; the others are held back."""

    def push(self, token_id: int) -> str:
        self._window.append(token_id)
        before = self._tokenizer.decode(self._window[: self._num_read], skip_special_tokens=False)
        after = self._tokenizer.decode(self._window, skip_special_tokens=False)
        num_held = len(self._window) - self._num_read
        is_whole = len(after) > len(before) and not after.endswith(_REPLACEMENT)
        if not is_whole and num_held < _MAX_HELD_TOKENS:
            return ""
        self._window = self._window[self._num_read :]
        self._num_read = len(self._window)
        return after[len(before) :]


def _incomplete_tail(pieces: TokenPieces, tail: list[int]) -> bytes:
    """The bytes of an unfinished character that the tail ends with."""
    last = pieces[tail[-1]] if tail else b""
    if last and isinstance(last, str):
        return b""
    utf8 = getincrementaldecoder("utf-8")("replace")
    for token_id in tail:
        piece = pieces[token_id]
        utf8.decode(piece if isinstance(piece, bytes) else piece.encode())
    incomplete: bytes = utf8.getstate()[0]
    return incomplete


def _continues_character(data: bytes) -> bool:
    return data[:1] != b"" and data[0] & 0xC0 == 0x80
