"""One tree of errors; each request error knows its HTTP status and TGI's ``error_type``.

    SegueError
    ├── ConfigError                     a flag, an environment variable or a model folder is wrong: nothing was started
    │   └── UnsupportedModelError
    ├── EngineDeadError                 the engine process is gone
    └── RequestError                    one request failed, all others go on
        ├── ValidationError             422 validation
        ├── GenerationError             424 generation
        ├── OverloadedError             429 overloaded
        ├── IncompleteGenerationError   500 incomplete_generation
        ├── IncompleteStreamError       500 incomplete_generation_stream
        ├── TemplateError               422 template_error
        ├── ToolError                   422 tool_error
        └── UnhealthyError              503 healthcheck

``str(error)`` of a ``RequestError`` is the text that the wire carries in ``error``.
"""

from typing import ClassVar

__all__ = [
    "ConfigError",
    "EngineDeadError",
    "GenerationError",
    "IncompleteGenerationError",
    "IncompleteStreamError",
    "OverloadedError",
    "RequestError",
    "SegueError",
    "TemplateError",
    "ToolError",
    "UnhealthyError",
    "UnsupportedModelError",
    "ValidationError",
]


class SegueError(Exception):
    """Base of every error that Segue raises on purpose."""


class ConfigError(SegueError):
    """The configuration cannot work; the text says what to change."""


class UnsupportedModelError(ConfigError):
    """No model family, and no fallback, can run this checkpoint."""


class EngineDeadError(SegueError):
    """The engine process ended while it was needed."""


class RequestError(SegueError):
    """One request cannot be answered."""

    status: ClassVar[int] = 500
    error_type: ClassVar[str] = "incomplete_generation"


class ValidationError(RequestError):
    status = 422
    error_type = "validation"

    def __init__(self, reason: str) -> None:
        super().__init__(f"Input validation error: {reason}")
        self.reason = reason


class GenerationError(RequestError):
    status = 424
    error_type = "generation"

    def __init__(self, reason: str) -> None:
        super().__init__(f"Request failed during generation: {reason}")
        self.reason = reason


class OverloadedError(RequestError):
    status = 429
    error_type = "overloaded"

    def __init__(self) -> None:
        super().__init__("Model is overloaded")


class IncompleteGenerationError(RequestError):
    status = 500
    error_type = "incomplete_generation"

    def __init__(self) -> None:
        super().__init__("Incomplete generation")


class IncompleteStreamError(RequestError):
    status = 500
    error_type = "incomplete_generation_stream"

    def __init__(self) -> None:
        super().__init__("Incomplete generation stream")


class TemplateError(RequestError):
    status = 422
    error_type = "template_error"

    def __init__(self, reason: str) -> None:
        super().__init__(f"Template error: {reason}")


class ToolError(RequestError):
    status = 422
    error_type = "tool_error"

    def __init__(self, reason: str) -> None:
        super().__init__(f"Tool error: {reason}")


class UnhealthyError(RequestError):
    status = 503
    error_type = "healthcheck"

    def __init__(self) -> None:
        super().__init__("unhealthy")
