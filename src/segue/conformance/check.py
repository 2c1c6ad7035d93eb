"""What a check is, and what can come of it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from segue.client import TGIError

__all__ = ["SUCCESS", "Check", "CheckFailed", "CheckSkipped", "Results", "collect", "expect", "status_of", "verdict"]

SUCCESS = "Success"
Results = dict[str, Any]
"""Name of a check → "Success", "Failed: why" or "Skipped: why"; or an object with that as its ``status``."""

A = TypeVar("A")


class CheckFailed(Exception):
    """The server, or the client, does not do what the check is about."""


class CheckSkipped(Exception):
    """The check cannot be made here; the text says what is missing."""


@dataclass(frozen=True, slots=True)
class Check(Generic[A]):
    name: str
    run: Callable[[A], Any]
    """Returns None, or an object to stand in the results. Raises CheckFailed, CheckSkipped, TGIError."""


def collect(*checks: Callable[[A], Any]) -> tuple[Check[A], ...]:
    """Functions whose names are those of the checks."""
    return tuple(Check(check.__name__, check) for check in checks)


def expect(fact: object, otherwise: str) -> None:
    """Raises CheckFailed(otherwise) unless ``fact``."""
    if not fact:
        raise CheckFailed(otherwise)


def status_of(error: Exception | None) -> str:
    """The word for how a check ended."""
    match error:
        case None:
            return SUCCESS
        case CheckSkipped():
            return f"Skipped: {error}"
        case CheckFailed():
            return f"Failed: {error}"
        case TGIError():
            return f"Failed: {type(error).__name__}: {error}"
    return f"Failed: {type(error).__name__}: {error}" if str(error) else f"Failed: {type(error).__name__}"


def verdict(result: Any) -> str:
    """ "Success", "Failed" or "Skipped", of an entry of the results."""
    status = result.get("status", "") if isinstance(result, dict) else str(result)
    return status.partition(":")[0]
