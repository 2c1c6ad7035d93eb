"""What can go wrong on the way to a server, as values that the proxy acts on."""

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["Answer", "CutStream", "Disconnect", "ErrorEvent", "Fault"]


@dataclass(frozen=True, slots=True)
class Answer:
    """The proxy answers itself; the server never sees the request."""

    status: int
    error_type: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def body(self) -> dict[str, str]:
        error = {"error": f"injected {self.status}"}
        return error if self.error_type is None else {**error, "error_type": self.error_type}


@dataclass(frozen=True, slots=True)
class Disconnect:
    """The connection is closed without an answer."""


@dataclass(frozen=True, slots=True)
class CutStream:
    """The server's stream is passed on up to so many events, then the connection breaks."""

    after_events: int = 1


@dataclass(frozen=True, slots=True)
class ErrorEvent:
    """After so many events of the server's stream an error follows, as TGI reports one in mid-stream."""

    after_events: int = 1
    error: str = "Request failed during generation: injected"
    error_type: str = "generation"


Fault = Answer | Disconnect | CutStream | ErrorEvent
