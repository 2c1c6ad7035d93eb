"""How large the result of a template's operation can be, told before the operation runs.

One operation can make a value that fills the memory (``"x" * 10**10``, ``s.replace("", s)``, the text of a list that
holds one list a thousand times), and never comes back to look at a budget. These functions bound the size of the result
from its operands. Sizes are characters of text or items of lists.
"""

import re
from collections.abc import Iterable, Sequence, Sized
from typing import Any

from jinja2.exceptions import SecurityError

__all__ = ["check_size", "operator_size", "printed_size", "text_operation_size"]

_MAX_INT_BITS = 4096
_MAX_JSON_INDENT = 64
# What a format can pad one field to without a width of five digits.
_MAX_FIELD_WIDTH = 9_999


def check_size(size: int, max_size: int) -> None:
    """Raises SecurityError for a size above ``max_size``."""
    if size > max_size:
        raise SecurityError("the template makes too large a value")


def operator_size(operator: str, left: Any, right: Any, max_size: int) -> int:
    """Of ``left + right``, ``*``, ``**`` or ``%``; 0 where the operands' types bound it.

    Raises SecurityError for integers that grow too large and for formats with wide fields.
    """
    if operator == "+":
        return _len(left) + _len(right)
    if operator == "%":
        values = right if isinstance(right, tuple) else (right,)
        return _format_size(left, values, max_size) if isinstance(left, str) else 0
    if isinstance(left, int) and isinstance(right, int):
        left_bits, right_bits = left.bit_length(), right.bit_length()
        if (left_bits * abs(right) if operator == "**" else left_bits + right_bits) > _MAX_INT_BITS:
            raise SecurityError("the template makes too large a number")
        return 0
    if operator == "*":
        return max(_len(left) * _int(right), _len(right) * _int(left))
    return 0


def text_operation_size(name: str, value: Any, values: Sequence[Any], max_size: int) -> int:
    """Of the string method, or of the filter, ``name`` on ``value``; ``values`` are its arguments.

    Raises SecurityError for arguments that no layout needs.
    """
    text = value if isinstance(value, str) else ""
    width = max(map(_int, values), default=0)
    match name, values:
        case "replace", [old, new, *_]:
            return len(text) + text.count(str(old)) * len(str(new))
        case "join", [items, *_] if isinstance(items, Iterable):
            return sum(printed_size(item, max_size) + len(text) for item in items)
        case "format" | "format_map", _:
            return _format_size(text, values, max_size)
        case "indent", _:
            longest = max((len(entry) for entry in values if isinstance(entry, str)), default=0)
            return len(text) + (text.count("\n") + 1) * max(width, longest, 4)
        case "expandtabs", _:
            return len(text) + text.count("\t") * width
        case "center" | "ljust" | "rjust" | "zfill" | "batch" | "slice", _:
            return _len(value) + width
        case "translate", _:
            raise SecurityError("translate is not supported")
        case "tojson", _ if width > _MAX_JSON_INDENT:
            raise SecurityError(f"tojson does not take an indent above {_MAX_JSON_INDENT}")
        case "sum", _ if any(isinstance(entry, Sized) and not isinstance(entry, str) for entry in values):
            raise SecurityError("sum adds numbers only")
        case _:
            return 0


def printed_size(value: Any, max_size: int) -> int:
    """About ``len(str(value))``. Raises SecurityError as soon as it is above ``max_size``."""
    size, rest = 0, [value]
    while rest:
        part = rest.pop()
        size += len(part) if isinstance(part, str) else 4
        check_size(size + len(rest), max_size)
        if isinstance(part, dict):
            rest += part.keys()
            rest += part.values()
        elif isinstance(part, list | tuple | set | frozenset):
            rest += part
    return size


def _len(value: Any) -> int:
    return len(value) if isinstance(value, Sized) else 0


def _int(value: Any) -> int:
    return value if isinstance(value, int) else 0


def _format_size(text: str, values: Iterable[Any], max_size: int) -> int:
    # A field's width stands in the text or, by "*" or a nested field, is one of the values.
    takes_width = re.search(r"%[^%a-zA-Z]*\*|\{[^{}]*\{", text) is not None
    if re.search(r"\d{5}", text) or (takes_width and any(_int(value) > _MAX_FIELD_WIDTH for value in values)):
        raise SecurityError(f"a format does not take a width above {_MAX_FIELD_WIDTH}")
    num_fields = text.count("%") + text.count("{")
    # A width in the text needs digits; the usual format has none.
    padding = _MAX_FIELD_WIDTH if takes_width or re.search(r"\d{3}", text) else 999
    return len(text) + num_fields * max((padding, *(printed_size(value, max_size) for value in values)))
