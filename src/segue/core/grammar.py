"""Constraints on the generated text, as the server sends them to the engine, and what bounds them."""

from dataclasses import dataclass
from typing import Any, Final, Literal

__all__ = ["JSON_OPTIONS", "MAX_REGEX_CHARS", "MAX_SCHEMA_CHARS", "PARSER_LIMITS", "Grammar", "fault_text"]

MAX_REGEX_CHARS: Final = 16_384
"""Of a regular expression, and of all that one schema holds. Compiling can take time in the square of this: 0.6 s on
one core at this length (``"a?" * 8192``)."""
MAX_SCHEMA_CHARS: Final = 131_072
"""Of a JSON Schema: 2 s on one core where it is one object of thousands of optional properties."""

PARSER_LIMITS: Final[dict[str, Any]] = {
    "initial_lexer_fuel": 500_000,
    "step_lexer_fuel": 100_000,
    "step_max_items": 20_000,
    "max_lexer_states": 20_000,
    "max_grammar_size": 200_000,
    "verbose_errors": False,
}
"""llguidance's ``LLParserLimits``. With its own defaults one mask took 7 s and 760 MB (``"a?" * 20000``, as a chain)
or 2.6 s (``(a{1000}){1000}``); with these the worst of a hundred hostile expressions took 0.2 s, then failed alone."""

_MAX_FAULT_CHARS: Final = 500

JSON_OPTIONS: Final[dict[str, Any]] = {"whitespace_flexible": True, "whitespace_pattern": "[ ]?"}
"""TGI's: at most one space wherever JSON allows any."""


@dataclass(frozen=True, slots=True)
class Grammar:
    """The whole output matches this."""

    kind: Literal["json_schema", "regex", "lark"]
    source: str
    """A JSON Schema as JSON text, whose order of properties is the output's, or a regular expression, or a grammar in
    llguidance's dialect of Lark. A grammar may name tokens by their ids (``<[32000]>``), which it must do for added
    tokens: llguidance does not take those for the text that they stand for."""


def fault_text(text: str) -> str:
    """llguidance's complaint as a part of an error: one line, of one that repeats a long grammar the beginning."""
    line = " ".join(text[: 2 * _MAX_FAULT_CHARS].replace("<non-verbose/>", "").split())
    return line if len(line) <= _MAX_FAULT_CHARS else line[:_MAX_FAULT_CHARS] + "…"
