"""One log line a request: ``Success`` with its times as TGI has it, or why it failed."""

import logging
from collections.abc import Mapping
from typing import Any

from segue.core.errors import RequestError
from segue.protocol.tgi import GenerateParameters

__all__ = ["log_failure", "log_inputs", "log_success", "span_fields"]

logger = logging.getLogger(__name__)


_MAX_INPUT_CHARS = 1000
_MAX_ERROR_CHARS = 2000


def log_inputs(inputs: str) -> None:
    """At debug level only, and of a long prompt the beginning."""
    logger.debug("Input: %.*s", _MAX_INPUT_CHARS, inputs)


def log_success(name: str, parameters: GenerateParameters, seed: int | None, times_s: Mapping[str, float]) -> None:
    """``name`` is TGI's name of the route's span; ``times_s`` are seconds by TGI's names."""
    if logger.isEnabledFor(logging.INFO):
        logger.info("Success", extra={"span": {"name": name, **span_fields(parameters, seed, times_s)}})


def span_fields(parameters: GenerateParameters, seed: int | None, times_s: Mapping[str, float]) -> dict[str, Any]:
    """The fields of TGI's span of a handler, in the log and in a trace."""
    times = {key: _duration(value) for key, value in times_s.items()}
    return {"parameters": parameters.model_dump_json(exclude_defaults=True), **times, "seed": seed}


def log_failure(name: str, error: RequestError) -> None:
    """A caller's words in it make neither a long line nor a second one."""
    text = " ".join(str(error)[:_MAX_ERROR_CHARS].splitlines())
    logger.error("%s", text, extra={"span": {"name": name}})


def _duration(seconds: float) -> str:
    """As Rust prints one: ``1.5s``, ``20.25ms``, ``31.2µs``."""
    for unit, factor in (("s", 1.0), ("ms", 1e3)):
        if seconds * factor >= 1:
            return f"{seconds * factor:.6f}".rstrip("0").rstrip(".") + unit
    return f"{seconds * 1e6:.3f}".rstrip("0").rstrip(".") + "µs"
