"""Functions that a chat offers to the model: how it is told of them, held to them, and read.

Where the model's chat template has a format of its own for calls (``text/tool_formats.py``), the template shows the
functions and the answer is read in that format; a call that must come is held to it by a grammar. Otherwise, and under
``--openai-dialect tgi``, it is done in TGI's way (spec 4.4): the prompt asks for JSON, a schema forces it, and a model
that may also say something chooses ``no_tool`` for that and is then asked again, without functions.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from typing import Any, Protocol
from uuid import uuid4

from segue.core.errors import ToolError, ValidationError
from segue.core.grammar import Grammar
from segue.protocol.openai import ChatRequest, FunctionDefinition, NamedToolChoice, TextFormat
from segue.protocol.tgi import JsonGrammar
from segue.server.admission import Ask
from segue.server.generation import Generation, Token, generate
from segue.server.sinks import EventSink
from segue.server.state import Server
from segue.server.stream import Dialect, stream_events
from segue.text.chat_template import ChatTemplate
from segue.text.json_schema import SchemaError, read_schema
from segue.text.messages import append_tool_prompt
from segue.text.tool_calls import CallArguments, CallParser, CallStart, NativeParser, Piece, PlainParser, TextPiece
from segue.text.tool_forced import NO_TOOL, ForcedParser, forced_schema
from segue.text.tool_formats import ToolFormat, find_format, lark_grammar

__all__ = [
    "Answer",
    "Call",
    "Reading",
    "ToolDialect",
    "ToolOffer",
    "Turn",
    "answer_turn",
    "call_ids",
    "find_offer",
    "stream_turn",
]

_NO_TOOL = FunctionDefinition.model_validate(
    {
        "name": NO_TOOL,
        "description": "Open ended response with no specific tool selected",
        "parameters": {"type": "object"},
    }
)
_NO_PARAMETERS: Mapping[str, Any] = {"type": "object", "properties": {}}


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolOffer:
    """The functions that one answer may call."""

    functions: tuple[FunctionDefinition, ...]
    """Not empty, each name once."""
    format: ToolFormat | None
    """The model's own way to write calls; None: TGI's."""
    is_optional: bool
    """The model may answer without a call."""
    allows_many: bool
    tool_prompt: str | None
    template: ChatTemplate

    def told(self, messages: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """The template's messages and tools."""
        listed = [*self.functions, _NO_TOOL] if self.may_decline else self.functions
        tools = [_tool(each) for each in listed]
        if self.format is None:
            uses_tools = self.template.uses_tools
            messages = append_tool_prompt(messages, tools, tool_prompt=self.tool_prompt, uses_tools=uses_tools)
        return messages, tools

    @property
    def may_decline(self) -> bool:
        """The model says by a call that it makes none, and is then to be asked again."""
        return self.format is None and self.is_optional

    async def hold(self, server: Server, ask: Ask) -> Ask:
        """``ask`` with the grammar that the answer needs. Raises ValidationError."""
        if self.format is None:
            schema = await server.in_thread(self._forced_schema)
            grammar = JsonGrammar(type="json", value=schema)
            return replace(ask, parameters=ask.parameters.model_copy(update={"grammar": grammar}))
        if self.is_optional:
            return ask
        return replace(ask, grammar=await self._lark(server, self.format))

    def parser(self, *, is_gradual: bool) -> CallParser:
        """For one answer."""
        if self.format is None:
            return ForcedParser(is_gradual=is_gradual, may_decline=self.may_decline)
        names = {each.name for each in self.functions}
        return NativeParser(self.format, names, is_gradual=is_gradual, allows_many=self.allows_many)

    def _forced_schema(self) -> dict[str, Any]:
        functions = [*self.functions, _NO_TOOL] if self.is_optional else self.functions
        try:
            return forced_schema([(each.name, _parameters(each)) for each in functions])
        except (SchemaError, RecursionError) as error:
            raise ValidationError(f"grammar is not valid: {error}") from error

    async def _lark(self, server: Server, tool_format: ToolFormat) -> Grammar:
        names = [each.name for each in self.functions]
        marks = ((mark, server.model.tokenizer.token_to_id(mark)) for mark in tool_format.marks)
        token_ids = {mark: token_id for mark, token_id in marks if token_id is not None}

        def lark(schemas: Sequence[str]) -> str:
            functions = list(zip(names, schemas, strict=True))
            return lark_grammar(
                tool_format,
                functions,
                token_ids=token_ids,
                allows_many=self.allows_many,
                template=self.template.source,
            )

        return await server.grammars.admit_calls([_parameters(each) for each in self.functions], lark)


def find_offer(body: ChatRequest, template: ChatTemplate, *, is_tgi: bool) -> ToolOffer | None:
    """What ``body`` offers to the model; None: nothing. Raises ToolError, ValidationError."""
    if body.tools is None:
        return None
    if not isinstance(body.response_format, TextFormat | None):
        raise ToolError("Grammar and tools are mutually exclusive")
    choice = body.tool_choice or "auto"
    if choice == "none":
        return None
    functions = {tool.function.name: tool.function for tool in body.tools}
    wanted = choice.function.name if isinstance(choice, NamedToolChoice) else choice
    is_named = isinstance(choice, NamedToolChoice) or choice not in ("auto", "required")
    if is_named:
        if wanted not in functions:
            raise ToolError(f"Tool with name {wanted} not found")
        functions = {wanted: functions[wanted]}
    if not functions:
        return None
    for each in functions.values():
        _parameters(each)
    is_native = not is_tgi and not body.tool_prompt and template.uses_tools
    return ToolOffer(
        functions=tuple(functions.values()),
        format=find_format(template.source) if is_native else None,
        is_optional=not is_named and wanted == "auto",
        allows_many=not is_named and body.parallel_tool_calls is not False,
        tool_prompt=body.tool_prompt,
        template=template,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """One answer of the model, as it is asked for."""

    ask: Ask
    offer: ToolOffer | None = None
    """The functions that the answer may call."""
    plain: Ask | None = None
    """What is asked should the model choose ``no_tool``."""


class Reading:
    """One answer as text and calls, in the order of its tokens."""

    def __init__(self, offer: ToolOffer | None, *, is_gradual: bool) -> None:
        """``is_gradual``: calls are given out while they are written, not when they are complete."""
        self._parser: CallParser = PlainParser() if offer is None else offer.parser(is_gradual=is_gradual)
        self._marks = () if offer is None or offer.format is None else offer.format.marks
        self._is_gradual = is_gradual
        self.has_special_marks = False
        """The answer has special tokens that are not left out of its text where they begin no call."""

    def read(self, generation: Generation, tokens: Sequence[Token]) -> list[Piece]:
        """What is certain after ``tokens``, the generation's newest."""
        texts = []
        for token in tokens:
            if not token.special:
                texts.append(token.text)
            elif token.text.strip() in self._marks:
                texts.append(token.text)
                self.has_special_marks = True
        if not self._is_gradual:
            texts = ["".join(texts)]
        # Else what came together goes out as it would have alone: an event a token.
        pieces = [piece for text in texts for piece in self._parser.push(text)]
        return pieces if generation.finish_reason is None else [*pieces, *self._parser.end()]

    @property
    def is_declined(self) -> bool:
        """The model chose ``no_tool``: it is to be asked again, and nothing was given out."""
        return isinstance(self._parser, ForcedParser) and self._parser.is_declined

    def begin_again(self) -> None:
        """What comes now is the second answer."""
        self._parser = PlainParser()


@dataclass(frozen=True, slots=True)
class Call:
    """A complete call."""

    name: str
    arguments: str
    """JSON text of an object."""


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer that is complete."""

    generation: Generation
    parts: tuple[str | Call, ...]
    """Texts and calls as they came; without calls one text, which may be empty."""

    @property
    def calls(self) -> list[Call]:
        return [part for part in self.parts if isinstance(part, Call)]

    @property
    def text(self) -> str:
        return "".join(part for part in self.parts if isinstance(part, str))


async def answer_turn(server: Server, turn: Turn) -> Answer:
    """All of an answer at once. Raises RequestError."""
    generation = (await generate(server, turn.ask)).best
    if turn.offer is None:
        return Answer(generation, (generation.text(),))
    reading = Reading(turn.offer, is_gradual=False)
    # In a thread: a call of a hundred thousand characters takes a second.
    pieces = await server.in_thread(lambda: reading.read(generation, generation.tokens))
    if reading.is_declined:
        assert turn.plain is not None, "`no_tool` is only there where the call is optional"
        return await answer_turn(server, Turn(ask=turn.plain))
    parts = _parts(pieces)
    if any(isinstance(part, Call) for part in parts):
        return Answer(generation, parts)
    text = "".join(str(part) for part in parts) if reading.has_special_marks else generation.text()
    if turn.offer.format is None and server.words.is_tgi:
        error = ToolError(f"Failed to parse generated text: EOF while parsing an object at line 1 column {len(text)}")
        server.record_failure(turn.ask.name, error)
        raise error
    return Answer(generation, (text,))


def _parts(pieces: Sequence[Piece]) -> tuple[str | Call, ...]:
    """Of complete calls, and of texts of which neighbours belong together."""
    parts: list[str | Call] = []
    for piece in pieces:
        match piece:
            case TextPiece(text) if parts and isinstance(parts[-1], str):
                parts[-1] += text
            case TextPiece(text):
                parts.append(text)
            case CallStart(name):
                parts.append(Call(name, ""))
            case CallArguments(text):
                last = parts[-1]
                assert isinstance(last, Call)
                parts[-1] = replace(last, arguments=last.arguments + text)
    return tuple(parts)


class ToolDialect(Dialect, Protocol):
    """How an answer that may have calls is written as events."""

    @property
    def reading(self) -> Reading:
        """What it reads its steps with. While that ``is_declined`` it renders nothing."""


async def stream_turn(server: Server, turn: Turn, dialect: ToolDialect, sink: EventSink) -> None:
    """As ``stream_events``; after ``no_tool`` the events of the second answer follow, and only they are seen."""
    for ask in (turn.ask, turn.plain):
        if ask is None:
            return
        await stream_events(server, ask, dialect, sink)
        if not dialect.reading.is_declined:
            return
        dialect.reading.begin_again()


def call_ids(server: Server, body: ChatRequest) -> Callable[[], str]:
    """Gives each call of an answer to ``body`` its id. TGI's count on from the conversation's, in streams."""
    if not server.words.is_tgi:
        return server.words.new_call_id
    if not body.stream:
        return lambda: "0"
    known = [call.id for call in chain.from_iterable(message.tool_calls or () for message in body.messages)]
    if not all(each.isascii() and each.isdigit() and len(each) < 20 for each in known):
        return lambda: str(uuid4())
    return partial(str, max((int(each) + 1 for each in known), default=0))


def _tool(function: FunctionDefinition) -> dict[str, Any]:
    """As chat templates take it."""
    described = {} if function.description is None else {"description": function.description}
    return {
        "type": "function",
        "function": {"name": function.name, **described, "parameters": _parameters(function)},
    }


def _parameters(function: FunctionDefinition) -> Mapping[str, Any]:
    """The arguments' schema. Raises ValidationError."""
    try:
        schema = read_schema(function.arguments)
    except SchemaError as error:
        raise ValidationError(f"grammar is not valid: {error}") from error
    if not schema and not isinstance(schema, str):
        return _NO_PARAMETERS
    if not isinstance(schema, Mapping):
        raise ValidationError(f"grammar is not valid: `parameters` of the function {function.name} must be an object")
    return schema
