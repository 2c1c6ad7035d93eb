"""A Jinja environment in which a template can neither reach Python nor run or grow without end.

Chat templates come with model folders, so they are somebody else's code on the server's thread. Jinja's immutable
sandbox keeps them from Python's internals and from changing their inputs. On top of it each rendering has a budget:
steps (loop turns and calls), processor time, characters put out, and the size of any one value (``template_limits``).
The budget is looked at between operations; what no rule here bounds is one operation that is slow by itself, such as
comparing two deeply nested lists.
"""

import json
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import datetime
from functools import wraps
from typing import Any, NoReturn, cast

from jinja2 import TemplateError, nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

from segue.text.template_limits import check_size, operator_size, printed_size, text_operation_size

__all__ = ["RaisedByTemplate", "TemplateEnvironment", "render_budget"]

_MAX_STEPS = 500_000
_MAX_SECONDS = 3.0
_MAX_SIZE = 16 * 2**20
_STEPS_BETWEEN_CLOCKS = 16
# These make a text of whatever they are given.
_TEXT_FILTERS = frozenset(
    {
        "capitalize",
        "center",
        "e",
        "escape",
        "forceescape",
        "format",
        "indent",
        "lower",
        "pprint",
        "replace",
        "string",
        "striptags",
        "title",
        "tojson",
        "trim",
        "truncate",
        "upper",
        "urlencode",
        "urlize",
        "wordcount",
        "wordwrap",
        "xmlattr",
    }
)


class RaisedByTemplate(TemplateError):
    """The template called ``raise_exception``."""


class _Budget:
    __slots__ = ("chars", "deadline_s", "max_size", "steps")

    def __init__(self, num_input_chars: int) -> None:
        self.steps = _MAX_STEPS
        # A template may repeat its input a few times, as data and as text.
        self.max_size = _MAX_SIZE + 8 * num_input_chars
        self.chars = self.max_size
        self.deadline_s = time.thread_time() + _MAX_SECONDS

    def spend(self, chars: int = 0) -> None:
        self.steps -= 1
        self.chars -= chars
        if self.steps < 0:
            raise SecurityError(f"the template takes more than {_MAX_STEPS} steps")
        if self.chars < 0:
            raise SecurityError("the template's output is too long")
        if self.steps % _STEPS_BETWEEN_CLOCKS == 0 and time.thread_time() > self.deadline_s:
            raise SecurityError(f"the template takes more than {_MAX_SECONDS} seconds")


_budget: ContextVar[_Budget | None] = ContextVar("segue_template_budget", default=None)


@contextmanager
def render_budget(num_input_chars: int) -> Iterator[None]:
    """Bounds what runs inside, on this thread: rendering a template of ``TemplateEnvironment``."""
    token = _budget.set(_Budget(num_input_chars))
    try:
        yield
    finally:
        _budget.reset(token)


class TemplateEnvironment(ImmutableSandboxedEnvironment):
    """Jinja as transformers sets it up for chat templates, bounded by ``render_budget``."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=[_GenerationTag, "jinja2.ext.loopcontrols"],
            finalize=_finalize,
        )
        self.filters["tojson"] = _tojson
        self.filters |= {name: _guarded(name, function) for name, function in self.filters.items()}
        del self.globals["lipsum"]
        self.globals["dict"] = _make_dict
        self.globals["namespace"] = _Namespace
        self.globals["raise_exception"] = _raise_exception
        self.globals["strftime_now"] = _strftime_now

    def spend(self, chars: int = 0) -> None:
        """The compiled template calls it at the start of each loop turn and macro."""
        if (budget := _budget.get()) is not None:
            budget.spend(chars)

    def concatenate(self, *operands: Any) -> str:
        """The ``~`` operator."""
        max_size = _max_size()
        check_size(sum(printed_size(operand, max_size) for operand in operands), max_size)
        return "".join(map(str, operands))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        max_size = _max_size()
        check_size(operator_size(operator, left, right, max_size), max_size)
        return super().call_binop(context, operator, left, right)

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        if getattr(__obj, "__func__", None) is TemplateEnvironment.spend:
            return __obj(*args)
        __self.spend()
        # The sandbox wraps str.format.
        method = getattr(__obj, "__wrapped__", __obj)
        owner = getattr(method, "__self__", None)
        if isinstance(owner, str):
            args = tuple(list(value) if isinstance(value, Iterator) else value for value in args)
            max_size = _max_size()
            check_size(text_operation_size(method.__name__, owner, [*args, *kwargs.values()], max_size), max_size)
        return super().call(__context, __obj, *args, **kwargs)

    def _generate(self, source: nodes.Template, *args: Any, **kwargs: Any) -> str:
        _InsertChecks().visit(source)
        return super()._generate(source, *args, **kwargs)


class _InsertChecks(NodeTransformer):
    """Rewrites a parsed template so that it spends its budget as it runs."""

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        return _environment_call("concatenate", node.nodes, node.lineno)

    def _visit_block(self, node: Any) -> nodes.Node:
        # What the block's constant text adds to the output each time; text of nested blocks counts twice, no matter.
        num_chars = sum(len(data.data) for data in node.find_all(nodes.TemplateData))
        num_chars += sum(len(const.value) for const in node.find_all(nodes.Const) if isinstance(const.value, str))
        self.generic_visit(node)
        spend = _environment_call("spend", [nodes.Const(num_chars)], node.lineno)
        node.body.insert(0, nodes.ExprStmt(spend, lineno=node.lineno))
        return cast(nodes.Node, node)

    visit_For = visit_Macro = visit_CallBlock = _visit_block


def _environment_call(name: str, arguments: list[nodes.Expr], lineno: int) -> nodes.Call:
    call = nodes.Call(nodes.EnvironmentAttribute(name), arguments, [], None, None)
    call.set_lineno(lineno)
    return call


class _GenerationTag(Extension):
    """``{% generation %} … {% endgeneration %}`` marks the assistant's text for training; here it is just its body."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Namespace(Namespace):
    """Keeps templates from storing under names that Python gives a meaning."""

    def __init__(*args: Any, **kwargs: Any) -> None:
        self, *values = args
        attributes = dict(*values, **kwargs)
        for name in attributes:
            _check_name(name)
        Namespace.__init__(self, attributes)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_name(name)
        super().__setitem__(name, value)


def _check_name(name: object) -> None:
    if str(name).startswith("_"):
        raise SecurityError(f"a namespace cannot have an attribute {name!r}")


def _make_dict(*args: Any, **kwargs: Any) -> dict[Any, Any]:
    return dict(*args, **kwargs)


def _raise_exception(message: object) -> NoReturn:
    raise RaisedByTemplate(str(message))


def _strftime_now(format: str) -> str:
    if re.search(r"\d{3}", format):
        raise SecurityError("strftime_now does not take wide fields")
    return datetime.now().strftime(format)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Plain JSON; Jinja's own filter escapes HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _guarded(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """The filter with the checks that calls of methods have."""
    # Some filters take the environment or the context before the value.
    index = 1 if hasattr(function, "jinja_pass_arg") else 0

    @wraps(function)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        budget = _budget.get()
        if budget is not None:
            budget.spend()
        max_size = _max_size()
        value, values = args[index], [*args[index + 1 :], *kwargs.values()]
        if name == "join":
            value = list(value)
            args = (*args[:index], value, *args[index + 1 :])
            value, values = next((entry for entry in values if isinstance(entry, str)), ""), [value]
        elif name in _TEXT_FILTERS and not isinstance(value, str):
            printed_size(value, max_size)
        check_size(text_operation_size(name, value, values, max_size), max_size)
        return function(*args, **kwargs)

    return guarded


def _finalize(value: Any) -> Any:
    """Sees each value that the template puts out."""
    budget = _budget.get()
    if budget is None:
        return value
    if not isinstance(value, str):
        printed_size(value, budget.max_size)
        value = str(value)
    budget.spend(len(value))
    return value


def _max_size() -> int:
    budget = _budget.get()
    # Jinja tries out constant expressions while it compiles.
    return _MAX_SIZE if budget is None else budget.max_size
