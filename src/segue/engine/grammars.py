"""What the scheduler must know of grammars: whether one is compiled yet."""

from collections.abc import Callable
from typing import Protocol

from segue.core.grammar import Grammar

__all__ = ["Grammars", "PreparedGrammar"]


class PreparedGrammar(Protocol):
    """A grammar that is compiled, or being compiled, for as long as somebody holds this."""

    @property
    def is_ready(self) -> bool:
        """Once True, always True."""

    @property
    def error(self) -> str | None:
        """When it is ready: why it cannot be used, None if it can."""


class Grammars(Protocol):
    """Compiles grammars outside the engine's thread."""

    on_ready: Callable[[], None]
    """Called in any thread when a grammar has become ready."""

    def prepare(self, grammar: Grammar) -> PreparedGrammar:
        """Never waits."""
