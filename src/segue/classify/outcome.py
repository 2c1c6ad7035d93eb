"""What became of the texts that got no label."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["ClassificationWarning", "TextFailure", "warn_of"]

_SHOWN = 3


@dataclass(frozen=True, slots=True)
class TextFailure:
    index: int
    """Of the text in what was passed."""
    reason: str
    error: Exception | None = None
    """None: the model answered, but with no label."""


class ClassificationWarning(UserWarning):
    """Some texts got None instead of a label; ``failures`` says which and why."""

    def __init__(self, message: str, failures: Sequence[TextFailure] = ()) -> None:
        super().__init__(message)
        self.failures = tuple(failures)


def warn_of(failures: Sequence[TextFailure], num_texts: int) -> None:
    """One warning for all of ``failures``; none if there are none."""
    if not failures:
        return
    shown = "; ".join(f"text {failure.index}: {failure.reason}" for failure in failures[:_SHOWN])
    rest = "" if len(failures) <= _SHOWN else f"; and {len(failures) - _SHOWN} more"
    message = f"{len(failures)} of {num_texts} texts have no answer, None stands for it. {shown}{rest}"
    warnings.warn(ClassificationWarning(message, failures), stacklevel=3)
