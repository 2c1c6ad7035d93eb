"""One choice of ``/v1/completions``, at once and as events."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from msgspec.json import encode

from segue.server.generation import Generation, PrefillToken, Token
from segue.server.openai_words import OpenAIWords
from segue.server.stream import OpenAIEvents, StreamUsage, usage
from segue.server.token_lane import TokenEvent

__all__ = ["CompletionEvents", "CompletionShape", "completion_choice"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CompletionShape:
    """What a choice shows besides the generated text."""

    echo: str = ""
    """The prompt, in front of the text."""
    hides_generation: bool = False
    """``max_tokens`` was 0: what had to be generated is not shown."""
    num_top_tokens: int | None = None
    """OpenAI's ``logprobs``."""


def completion_choice(words: OpenAIWords, index: int, generation: Generation, shape: CompletionShape) -> dict[str, Any]:
    """Of an answer at once."""
    logprobs = None
    if shape.num_top_tokens is not None:
        shown = 0 if shape.hides_generation else generation.num_tokens
        logprobs = _logprobs(generation, 0, shown, shape.num_top_tokens, prefill=generation.prefill, echo=shape.echo)
    return {
        "index": index,
        "text": shape.echo + ("" if shape.hides_generation else generation.text()),
        "logprobs": logprobs,
        "finish_reason": "length" if shape.hides_generation else words.finish_reason(generation.finish_reason),
    }


class CompletionEvents(OpenAIEvents):
    """One chunk a token, the last of each choice with its finish reason and the usage."""

    def __init__(
        self,
        words: OpenAIWords,
        *,
        index: int,
        chunk_id: str,
        model: str,
        system_fingerprint: str,
        shape: CompletionShape,
        total: StreamUsage | None = None,
    ) -> None:
        """``index``: of the choice. ``total``: goes into one more chunk at the very end instead of each choice's."""
        super().__init__(words)
        self._index = index
        self._shape = shape
        self._total = total
        self._num_chars = len(shape.echo)
        names = encode({"model": model, "system_fingerprint": system_fingerprint})[1:-1]
        head = b'data: {"object":"text_completion","id":%b,"created":%d' % (encode(chunk_id), int(time.time()))
        choice = b'"choices":[{"index":%d,"text":' % index
        self._head = b"%b,%b" % (head, choice)
        self._tail = b',"finish_reason":%b}],%b}\n\n' % (encode(words.unfinished), names)
        text = "shown_text" if words.is_openai else "text"
        is_plain = not shape.hides_generation and shape.num_top_tokens is None
        self.token_event: TokenEvent | None = (self._head, text, b',"logprobs":null', self._tail) if is_plain else None
        self._last_head = b"%b,%b,%b" % (head, names, choice)
        self._usage_head = b'%b,%b,"choices":[],"usage":' % (head, names)

    def render(self, generation: Generation, tokens: Sequence[Token]) -> bytes:
        before = generation.num_tokens - len(tokens)
        events = []
        for number, token in enumerate(tokens, 1):
            is_last = generation.finish_reason is not None and number == len(tokens)
            text = self._shown(token)
            if before + number == 1:
                text = self._shape.echo + text
            logprobs = self._token_logprobs(generation, before + number - 1)
            if is_last:
                events.append(
                    b'%b%b,"logprobs":%b%b' % (self._last_head, encode(text), logprobs, self._end(generation))
                )
            else:
                events.append(b'%b%b,"logprobs":%b%b' % (self._head, encode(text), logprobs, self._tail))
            self._num_chars += len(self._shown(token))
        if generation.finish_reason is not None and self._total is not None:
            total = self._total.add(self._index, generation)
            if total is not None:
                events.append(b"%b%b}\n\n" % (self._usage_head, encode(total)))
        return b"".join(events)

    def _shown(self, token: Token) -> str:
        if self._shape.hides_generation or (token.special and self._words.is_openai):
            return ""
        return token.text

    def _token_logprobs(self, generation: Generation, number: int) -> bytes:
        if self._shape.num_top_tokens is None or self._shape.hides_generation:
            return b"null"
        num_top, start = self._shape.num_top_tokens, self._num_chars
        return encode(_logprobs(generation, number, number + 1, num_top, first_offset=start))

    def _end(self, generation: Generation) -> bytes:
        reason = self._words.completion_stream_finish_reason(generation.finish_reason)
        if self._shape.hides_generation:
            reason = "length"
        if self._total is not None:
            return b',"finish_reason":"%b"}],"usage":null}\n\n' % reason.encode()
        return b',"finish_reason":"%b"}],"usage":%b}\n\n' % (reason.encode(), encode(usage([generation])))


def _logprobs(
    generation: Generation,
    start: int,
    end: int,
    num_top_tokens: int,
    *,
    prefill: Sequence[PrefillToken] = (),
    echo: str = "",
    first_offset: int = 0,
) -> dict[str, Any]:
    """OpenAI's lists, of the tokens of an echoed prompt and of the generated ones from ``start`` to ``end``."""
    top: list[dict[str, float] | None] = [None] * len(prefill)
    offsets, offset = [], first_offset
    for prompt_token in prefill:
        offsets.append(offset)
        # A token that the tokenizer put in, such as BOS, is not in the text.
        offset += len(prompt_token.text) if echo.startswith(prompt_token.text, offset) else 0
    offset = max(offset, len(echo))
    for number in range(start, end):
        chosen = generation.tokens[number]
        offsets.append(offset)
        offset += 0 if chosen.special else len(chosen.text)
        if num_top_tokens:
            best = {each.text: each.logprob for each in reversed(generation.top_tokens[number])}
            top.append({**best, chosen.text: chosen.logprob})
    tokens: Sequence[PrefillToken | Token] = [*prefill, *generation.tokens[start:end]]
    return {
        "tokens": [token.text for token in tokens],
        "token_logprobs": [token.logprob for token in tokens],
        "top_logprobs": top if num_top_tokens else None,
        "text_offset": offsets,
    }
