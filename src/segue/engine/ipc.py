"""Framing of core types for the socket between servers and engine: one byte for the type, then MessagePack.

``channel`` carries the frames. A server says ``Hello`` and gets an ``EngineInfo`` or a ``Refusal``;
it sends ``Request``, ``RequestGroup`` and ``AbortRequests`` at any time and gets one ``EngineStep`` a step. This module
knows no field names.
"""

from dataclasses import dataclass

import msgspec

from segue.core.limits import RouterLimits
from segue.core.output import EngineInfo, EngineStep
from segue.core.request import AbortRequests, Request

__all__ = ["Heartbeat", "Hello", "Message", "Refusal", "RequestGroup", "Shutdown", "decode", "encode", "tag_of"]


@dataclass(frozen=True, slots=True)
class Hello:
    """Server → engine: here I am; answer with ``EngineInfo``."""

    limits: RouterLimits | None = None
    """Of a server that has limits of its own."""


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """Server → engine: are you there? Engine → server, between two steps: I am."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Engine → server: your limits cannot be met, you get no engine."""

    reason: str


@dataclass(frozen=True, slots=True)
class RequestGroup:
    """Server → engine: these come at once, so that one step may run them all."""

    requests: tuple[Request, ...]


@dataclass(frozen=True, slots=True)
class Shutdown:
    """Server → engine: end now, whatever is in flight."""


Message = Request | AbortRequests | EngineStep | EngineInfo | Hello | Shutdown | Refusal | RequestGroup | Heartbeat

_TYPES: tuple[type[Message], ...] = (
    Request,
    AbortRequests,
    EngineStep,
    EngineInfo,
    Hello,
    Shutdown,
    Refusal,
    RequestGroup,
    Heartbeat,
)
_TAGS = {message_type: tag for tag, message_type in enumerate(_TYPES)}
_DECODERS = [msgspec.msgpack.Decoder(message_type) for message_type in _TYPES]
_ENCODER = msgspec.msgpack.Encoder()


def tag_of(message_type: type[Message]) -> int:
    """The first byte of its frames."""
    return _TAGS[message_type]


def encode(message: Message) -> bytearray:
    """The frame of ``message``."""
    frame = bytearray((_TAGS[type(message)],))
    _ENCODER.encode_into(message, frame, 1)
    return frame


def decode(frame: bytes) -> Message:
    """The message of a frame. Raises ``ValueError`` for anything that ``encode`` did not make."""
    if not frame or frame[0] >= len(_DECODERS):
        raise ValueError(f"not a frame of this protocol: {frame[:16]!r}")
    return _DECODERS[frame[0]].decode(memoryview(frame)[1:])
