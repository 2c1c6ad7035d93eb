"""A wire request's grammar becomes the engine's, or is refused with TGI's words (spec 2.4).

Schemas are compiled here as well, without the vocabulary, because TGI answers a wrong one with status 422. A regular
expression is compiled by the engine alone: as in TGI, a wrong one fails its generation.
"""

import asyncio
import re
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any

from msgspec.json import encode

from segue.core.errors import ValidationError
from segue.core.grammar import JSON_OPTIONS, MAX_REGEX_CHARS, MAX_SCHEMA_CHARS, PARSER_LIMITS, Grammar, fault_text
from segue.protocol.openai import JsonFormat, JsonSchemaFormat, ResponseFormat
from segue.protocol.tgi import GrammarType, JsonGrammar, JsonSchemaGrammar, RegexGrammar
from segue.text.json_schema import SchemaError, is_object_schema, read_schema, tgi_schema

__all__ = ["GrammarAdmission", "wire_grammar"]

NUM_THREADS = 2
MAX_CACHED = 256
ANY_OBJECT = JsonGrammar(type="json_object", value={"properties": {}, "additionalProperties": True})
"""OpenAI's ``json_object``."""


class GrammarAdmission:
    """Checks grammars in threads of its own, so that a large schema holds up nothing but other schemas."""

    def __init__(self, *, is_enabled: bool) -> None:
        self._is_enabled = is_enabled
        self._threads = ThreadPoolExecutor(NUM_THREADS, thread_name_prefix="grammar")

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def admit(self, given: GrammarType) -> Grammar:
        """Raises ValidationError."""
        if not self._is_enabled:
            raise ValidationError("grammar is not supported")
        if isinstance(given, RegexGrammar):
            if len(given.value) > MAX_REGEX_CHARS:
                raise ValidationError(
                    f"grammar is not valid: the regular expression is longer than {MAX_REGEX_CHARS} characters"
                )
            return Grammar("regex", given.value)
        assert isinstance(given, JsonGrammar | JsonSchemaGrammar)
        schema = given.value if isinstance(given, JsonGrammar) else given.value.json_schema
        source = await asyncio.get_running_loop().run_in_executor(self._threads, _checked_source, schema)
        return Grammar("json_schema", source)

    async def admit_calls(self, parameters: Sequence[object], lark: Callable[[Sequence[str]], str]) -> Grammar:
        """What ``lark`` makes of the JSON texts of the schemas ``parameters``, one a function.

        Raises ValidationError.
        """
        if not self._is_enabled:
            raise ValidationError("grammar is not supported")
        source = await asyncio.get_running_loop().run_in_executor(self._threads, _checked_lark, parameters, lark)
        return Grammar("lark", source)


def wire_grammar(given: ResponseFormat | None) -> GrammarType | None:
    """``response_format`` in OpenAI's shapes or in TGI's, as TGI's grammar."""
    match given:
        case RegexGrammar():
            return given
        case JsonFormat():
            return ANY_OBJECT if given.value is None else JsonGrammar(type=given.type, value=given.value)
        case JsonSchemaFormat():
            config = given.json_schema or given.value
            assert config is not None, "the wire refuses it without a schema"
            return JsonSchemaGrammar(type="json_schema", value=config)
    return None


def _checked_source(value: object) -> str:
    """The schema's JSON text for the engine. Raises ValidationError."""
    source = _schema_source(value)
    fault = _fault(source)
    if fault is not None:
        raise ValidationError(f"cannot compile regex from schema: {fault}")
    return source


def _checked_lark(parameters: Sequence[object], lark: Callable[[Sequence[str]], str]) -> str:
    source = lark([_schema_source(each, is_part=True) for each in parameters])
    if len(source) > MAX_SCHEMA_CHARS:
        raise ValidationError(f"grammar is not valid: the schemas are longer than {MAX_SCHEMA_CHARS} characters")
    fault = _lark_fault(source)
    if fault is not None:
        raise ValidationError(f"cannot compile regex from schema: {fault}")
    return source


def _schema_source(value: object, *, is_part: bool = False) -> str:
    """The schema's JSON text for the engine, or for a part of a Lark grammar. Raises ValidationError."""
    try:
        schema = read_schema(value)
        if not isinstance(schema, Mapping):
            raise ValidationError("grammar is not supported")
        if not is_part and not is_object_schema(schema):
            raise SchemaError("Grammar must have a 'properties' field")
        # Options cannot be given beside a Lark grammar.
        source = encode({**tgi_schema(schema), **({"x-guidance": JSON_OPTIONS} if is_part else {})}).decode()
    except (SchemaError, RecursionError) as error:
        raise ValidationError(f"grammar is not valid: {error}") from error
    if len(source) > MAX_SCHEMA_CHARS:
        raise ValidationError(f"grammar is not valid: the schema is longer than {MAX_SCHEMA_CHARS} characters")
    if _num_pattern_chars(schema) > MAX_REGEX_CHARS:
        raise ValidationError(f"grammar is not valid: its patterns are longer than {MAX_REGEX_CHARS} characters")
    return source


def _num_pattern_chars(value: object) -> int:
    """Of everything that may be a regular expression."""
    if isinstance(value, list):
        return sum(map(_num_pattern_chars, value))
    if not isinstance(value, Mapping):
        return 0
    own: Any = value.get("pattern")
    keys = value.get("patternProperties")
    num_chars = len(own) if isinstance(own, str) else 0
    num_chars += sum(map(len, keys)) if isinstance(keys, Mapping) else 0
    return num_chars + sum(map(_num_pattern_chars, value.values()))


@lru_cache(MAX_CACHED)
def _fault(source: str) -> str | None:
    from llguidance import LLMatcher

    return (
        fault_text(_compile_fault(lambda: LLMatcher.grammar_from_json_schema(source, overrides=JSON_OPTIONS))) or None
    )


@lru_cache(MAX_CACHED)
def _lark_fault(source: str) -> str | None:
    """In the words that the schema at fault would have alone: the grammar around it is not the caller's."""
    from llguidance import LLMatcher

    text = _compile_fault(lambda: LLMatcher.grammar_from_lark(source))
    lines = text.rpartition("failed to compile JSON schema: ")[2].splitlines()
    return fault_text("\n".join(line for line in lines if not re.match(r" *(\d+ \||\^)", line))) or None


def _compile_fault(grammar: Callable[[], str]) -> str:
    from llguidance import LLMatcher, LLParserLimits

    try:
        return str(LLMatcher.validate_grammar(grammar(), limits=LLParserLimits(**PARSER_LIMITS)))
    except ValueError as error:
        return str(error)
