"""The short way of tokens, from the engine's frames to a client's connection in native code.

Most tokens of most streams need nothing but their text in an event: no stop string, no other tokens, and a text that
does not hang on their neighbours. A stream that is in the lane has such tokens written where the frame is read
(lane.cpp), without an object of Python. Anything else ends it: that output comes the long way, which may enter the
lane again.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from msgspec.json import Encoder

from segue.core.output import EngineStep
from segue.engine.handle import Lane
from segue.engine.ipc import tag_of
from segue.server.outlets import Outlet

if TYPE_CHECKING:
    from segue.server.native._lane import Pen
    from segue.text.tokenizer import Tokenizer

__all__ = ["LaneTokens", "TokenEvent", "TokenLane", "Way", "new_lane"]

TokenEvent: TypeAlias = Sequence[bytes | str]
"""Bytes as they are, and the names of what changes: index, id, text, shown_text ("" of a special token), logprob,
special."""

_encode = Encoder().encode


def new_lane() -> Lane | None:
    """For a ``RemoteEngine``. None where Segue was installed without a compiler."""
    try:
        from segue.server.native import _lane
    except ImportError:
        return None
    return _lane.Lane(tag_of(EngineStep))


class LaneTokens(NamedTuple):
    """What a stream got in the lane."""

    ids: list[int]
    logprobs: list[float]
    num_steps: dict[int, int]
    """By the number of tokens that a step gave."""


class Way:
    """One stream's way through the lane."""

    __slots__ = ("_lane", "_new_pen", "_pen", "_request_id")

    def __init__(self, lane: Lane, request_id: int, new_pen: "Callable[[int], Pen]") -> None:
        """``new_pen`` takes the number of the next token, from 1."""
        self._lane = lane
        self._request_id = request_id
        self._new_pen = new_pen
        self._pen: Pen | None = None

    def enter(self, number: int) -> None:
        """From token ``number`` on. All before it must be written."""
        self._pen = self._new_pen(number)
        self._lane.open(self._request_id, self._pen)

    def leave(self) -> LaneTokens | None:
        """What was written since ``enter``; None where the stream has not entered."""
        pen, self._pen = self._pen, None
        if pen is None:
            return None
        self._lane.drop(self._request_id)
        return LaneTokens(*pen.take())


class TokenLane:
    """The streams of one server in the lane of its engine."""

    def __init__(self, lane: Lane, tokenizer: "Tokenizer") -> None:
        from segue.server.native import _lane

        self._native = _lane
        self._lane = lane
        self._has_texts = tokenizer.pieces is not None
        self._pieces = _lane.Pieces(partial(_describe, tokenizer))

    def way(self, request_id: int, event: TokenEvent, sink: object) -> Way | None:
        """For the stream of a request. None where the sink leads to no connection of its own."""
        if not self._has_texts or not isinstance(sink, Outlet):
            return None
        template = self._native.Template(event)
        return Way(self._lane, request_id, lambda number: self._native.Pen(self._pieces, template, sink, number))


def _describe(tokenizer: "Tokenizer", token_id: int) -> tuple[bytes, bool] | None:
    text = tokenizer.pieces[token_id] if tokenizer.pieces is not None else None
    return (_encode(text), token_id in tokenizer.special_token_ids) if isinstance(text, str) else None
