"""What OpenAI's and Anthropic's routes answer to requests that fail, and inside streams that do."""

from typing import Literal

from segue.protocol.wire import WireModel

__all__ = ["AnthropicErrorResponse", "ErrorMessage", "OpenAIErrorEvent", "OpenAIErrorResponse", "TypedEvent"]


class ErrorMessage(WireModel):
    """Why a request was not answered."""

    error: str


class OpenAIError(WireModel):
    """OpenAI's error object."""

    message: str
    type: str
    param: str | None
    code: str | None


class OpenAIErrorResponse(WireModel):
    """Why a request was not answered: OpenAI's object, and TGI's word beside it."""

    error: OpenAIError
    error_type: str | None = None
    """TGI's; absent where the body could not be read."""


class OpenAIEventError(WireModel):
    """What ended the stream. TGI's clients read the message; the status is 422 whatever happened, as TGI's is."""

    message: str
    http_status_code: int
    type: str | None = None
    param: str | None = None
    code: str | None = None


class OpenAIErrorEvent(WireModel):
    """The last event before ``[DONE]`` of a stream that failed."""

    error: OpenAIEventError


class AnthropicError(WireModel):
    """Anthropic's error object."""

    type: str
    message: str


class AnthropicErrorResponse(WireModel):
    """Why a request was not answered: Anthropic's object, and TGI's word beside it."""

    type: Literal["error"] = "error"
    error: AnthropicError
    error_type: str | None = None
    """TGI's; absent where the body could not be read."""


class TypedEvent(WireModel):
    """An event whose ``type`` says what else it carries, in the words of the API that the route follows."""

    type: str
