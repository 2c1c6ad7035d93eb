"""A two-rule template language: `[a|b]` picks one alternative (nesting allowed), `{slot}` is filled in."""

from __future__ import annotations

import re
from random import Random

_INNERMOST = re.compile(r"\[([^\[\]]*)\]")


def vary(rng: Random, template: str, **slots: object) -> str:
    """Resolve every `[a|b]` at random, innermost first, then fill `{slot}`s. Slot values may hold brackets."""
    while True:
        resolved, count = _INNERMOST.subn(lambda found: rng.choice(found.group(1).split("|")), template)
        if not count:
            return resolved.format(**slots)
        template = resolved


def a(noun: str) -> str:
    """`noun` with its indefinite article."""
    return f"an {noun}" if noun[0].lower() in "aeiou" and not noun.startswith(("uni", "use")) else f"a {noun}"


def capital(text: str) -> str:
    """`text` with its first letter in upper case, the rest unchanged."""
    return text[:1].upper() + text[1:]


def listing(items: list[str]) -> str:
    """`a, b and c`."""
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"
