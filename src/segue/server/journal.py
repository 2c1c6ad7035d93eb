"""One log line a request: ``Success`` with its times as TGI has it, or why it failed."""

import logging

from segue.core.errors import RequestError
from segue.protocol.tgi import GenerateParameters

__all__ = ["log_failure", "log_success"]

logger = logging.getLogger(__name__)


def log_success(name: str, parameters: GenerateParameters, seed: int | None, times_s: dict[str, float]) -> None:
    """``name`` is TGI's name of the route's span; ``times_s`` are seconds by TGI's names."""
    if logger.isEnabledFor(logging.INFO):
        times = {key: _duration(value) for key, value in times_s.items()}
        given = parameters.model_dump_json(exclude_defaults=True)
        span = {"name": name, "parameters": given, **times, "seed": seed}
        logger.info("Success", extra={"span": span})


def log_failure(name: str, error: RequestError) -> None:
    logger.error("%s", error, extra={"span": {"name": name}})


def _duration(seconds: float) -> str:
    """As Rust prints one: ``1.5s``, ``20.25ms``, ``31.2µs``."""
    for unit, factor in (("s", 1.0), ("ms", 1e3)):
        if seconds * factor >= 1:
            return f"{seconds * factor:.6f}".rstrip("0").rstrip(".") + unit
    return f"{seconds * 1e6:.3f}".rstrip("0").rstrip(".") + "µs"
