"""One prompt a text, many at a time: requests, what the server cannot do, and texts that are too long."""

import asyncio
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from segue.classify.scoring import Choice, Step
from segue.client import AsyncClient, BadRequestError, InvalidResponseError, TGIError, ValidationError
from segue.client.types import ChatCompletion, GenerateResult

__all__ = ["Answer", "Asker", "Question", "ask_all"]

NUM_ALTERNATIVES = 5
"""Most that a server lists unless it is started with a higher --max-top-n-tokens."""
_MAX_CUTS = 4
_GRAMMAR_WORDS = ("grammar", "response_format", "regex")


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What is asked of every text, and how."""

    render: Callable[[str], str]
    """A text → its prompt; in a chat the user's message."""
    system: str | None
    """In a chat the system's message."""
    is_chat: bool
    parameters: Mapping[str, Any] = field(repr=False)
    """Of the request, as the client names them."""
    regex: str | None
    """What the answer must match; None: anything."""
    is_regex_optional: bool
    """Ask without it where the server has no grammars."""
    truncates: bool
    """Cut texts that are too long."""
    wants_steps: bool


@dataclass(frozen=True, slots=True)
class Answer:
    text: str
    steps: tuple[Step, ...]


async def ask_all(
    asker: "Asker", texts: Sequence[str], *, concurrency: int, raises: bool, on_done: Callable[[], object]
) -> list[Answer | TGIError]:
    """Answers in the order of ``texts``, at most ``concurrency`` requests at a time.

    Errors stand where the answers would; with ``raises`` the first one ends it and is raised.
    """
    outcomes: list[Answer | TGIError | None] = [None] * len(texts)
    waiting = iter(enumerate(texts))

    async def work() -> None:
        for index, text in waiting:
            try:
                outcomes[index] = await asker.ask(text)
            except TGIError as error:
                if raises or asker.is_hopeless(error):
                    raise
                outcomes[index] = error
            on_done()

    workers = [asyncio.create_task(work()) for _ in range(min(concurrency, len(texts)))]
    try:
        await asyncio.gather(*workers)
    finally:
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)
    return [outcome for outcome in outcomes if outcome is not None]


class Asker:
    """Asks one question of many texts.

    ``refused_grammar`` holds the ids of endpoints that have no grammars, and learns: each is asked in vain once.
    """

    def __init__(self, client: AsyncClient, question: Question, refused_grammar: set[str]) -> None:
        self._client = client
        self._question = question
        self._refused_grammar = refused_grammar
        self._max_input_tokens: dict[str | None, int] = {}

    def is_hopeless(self, error: TGIError) -> bool:
        """No text will fare better: the server has no grammars, and the caller insists on one."""
        question = self._question
        return question.regex is not None and not question.is_regex_optional and _is_about_grammar(error)

    async def ask(self, text: str) -> Answer:
        """Raises TGIError."""
        try:
            return await self._ask_constrained(text)
        except ValidationError as error:
            if not self._question.truncates:
                raise
            shortened = await self._cut(text, error.endpoint)
            if shortened is None:
                raise
            return await self._ask_constrained(shortened, endpoint=error.endpoint)

    async def _ask_constrained(self, text: str, endpoint: str | None = None) -> Answer:
        question = self._question
        candidates = {endpoint} if endpoint else set(self._client.pool.ids)
        if question.regex is None or (question.is_regex_optional and candidates <= self._refused_grammar):
            return await self._request(text, None, endpoint)
        try:
            return await self._request(text, question.regex, endpoint)
        except (ValidationError, BadRequestError) as error:
            if not (question.is_regex_optional and _is_about_grammar(error)):
                raise
            refusing = error.endpoint
        assert refusing is not None  # a server has answered
        self._refused_grammar.add(refusing)
        return await self._request(text, None, refusing)

    async def _request(self, text: str, regex: str | None, endpoint: str | None) -> Answer:
        question, client = self._question, self._client
        prompt, options = question.render(text), {**question.parameters, "endpoint": endpoint}
        grammar = None if regex is None else {"type": "regex", "value": regex}
        if question.is_chat:
            if question.wants_steps:
                options |= {"logprobs": True, "top_logprobs": NUM_ALTERNATIVES}
            chat = await client.chat.create(self._messages(prompt), response_format=grammar, **options)
            return Answer(chat.text, _listed(_steps_of_chat(chat), chat) if question.wants_steps else ())
        top_n_tokens = NUM_ALTERNATIVES if question.wants_steps else None
        result = await client.generate(
            prompt, details=question.wants_steps, grammar=grammar, top_n_tokens=top_n_tokens, **options
        )
        return Answer(result.generated_text, _listed(_steps_of(result), result) if question.wants_steps else ())

    def _messages(self, prompt: str) -> list[dict[str, str]]:
        system = self._question.system
        beginning = [{"role": "system", "content": system}] if system else []
        return [*beginning, {"role": "user", "content": prompt}]

    async def _cut(self, text: str, endpoint: str | None) -> str | None:
        """The longest beginning of ``text`` whose prompt fits; None if it fits as it is, or nothing of it does."""
        room = await self._room(endpoint)
        if room is None:
            return None
        kept = text
        for _ in range(_MAX_CUTS):  # tokens may fall differently where a text ends earlier
            excess = await self._num_tokens(kept, endpoint) - room
            if excess <= 0:
                return kept if kept != text else None
            tokens = (await self._client.tokenize(kept, endpoint=endpoint)).tokens
            spans = [token for token in tokens if token.stop > token.start]  # special tokens stand for no text
            end = spans[-excess - 1].stop if excess < len(spans) else 0
            kept = kept[: min(end, len(kept) - 1)]
            if not kept:
                return None
        return None

    async def _room(self, endpoint: str | None) -> int | None:
        """Most tokens of a prompt; None where the server does not say."""
        if endpoint not in self._max_input_tokens:
            info = await self._client.info(endpoint=endpoint)
            max_new_tokens = self._question.parameters["max_tokens" if self._question.is_chat else "max_new_tokens"]
            limits = [info.max_input_tokens, info.max_total_tokens and info.max_total_tokens - max_new_tokens]
            known = [limit for limit in limits if limit is not None]
            if not known:
                return None
            self._max_input_tokens[endpoint] = min(known)
        return self._max_input_tokens[endpoint]

    async def _num_tokens(self, text: str, endpoint: str | None) -> int:
        prompt = self._question.render(text)
        if self._question.is_chat:
            return len((await self._client.chat_tokenize(self._messages(prompt), endpoint=endpoint)).tokens)
        return len(await self._client.tokenize(prompt, endpoint=endpoint))


def _is_about_grammar(error: TGIError) -> bool:
    is_refusal = isinstance(error, (ValidationError, BadRequestError))
    return is_refusal and any(word in error.message.lower() for word in _GRAMMAR_WORDS)


def _listed(steps: tuple[Step, ...], result: GenerateResult | ChatCompletion) -> tuple[Step, ...]:
    if not steps:
        raise InvalidResponseError("the server lists no tokens", response=result.response, body="")
    return steps


def _steps_of(result: GenerateResult) -> tuple[Step, ...]:
    details = result.details
    if details is None:
        return ()
    tops = details.top_tokens or ((),) * len(details.tokens)
    return tuple(
        Step(
            Choice(token.text, _probability(token.logprob)),
            tuple(Choice(other.text, _probability(other.logprob)) for other in top if other.id != token.id),
        )
        for token, top in zip(details.tokens, tops, strict=False)
    )


def _steps_of_chat(result: ChatCompletion) -> tuple[Step, ...]:
    logprobs = result.choices[0].logprobs if result.choices else None
    return tuple(
        Step(
            Choice(entry.token, _probability(entry.logprob)),
            tuple(
                Choice(other.token, _probability(other.logprob))
                for other in entry.top_logprobs
                if other.token != entry.token
            ),
        )
        for entry in logprobs or ()
    )


def _probability(logprob: float | None) -> float:
    return 0.0 if logprob is None else min(1.0, math.exp(logprob))
