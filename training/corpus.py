"""The training text of both sample models: endless, and the same for the same seed."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from itertools import islice
from random import Random

from training import chat_format
from training.document import Pair, Piece, Turn
from training.kinds.arithmetic import arithmetic
from training.kinds.classification import classification, classification_request
from training.kinds.everyday import SYSTEMS, everyday
from training.kinds.facts import fact
from training.kinds.plain import plain_text, question_and_answer
from training.kinds.seq2seq import pair
from training.kinds.stories import story, story_request, summary_request
from training.kinds.structured import json_request, tool_chat

_Writer = Callable[[Random], list[Piece]]
_EXCHANGES: tuple[tuple[Callable[[Random], list[Turn]], int], ...] = (
    (fact, 28), (arithmetic, 32), (everyday, 26), (classification_request, 5), (json_request, 11),
    (story_request, 6), (summary_request, 2),
)  # fmt: skip
_WRITERS, _WEIGHTS = zip(*_EXCHANGES, strict=True)


def _chat(rng: Random) -> list[Piece]:
    turns: list[Turn] = []
    if rng.random() < 0.3:
        turns.append(Turn("system", rng.choice(SYSTEMS)))
    for _ in range(rng.choice((1, 1, 1, 2, 2, 3, 4))):
        exchange = rng.choices(_WRITERS, _WEIGHTS)[0](rng)
        turns += [turn for turn in exchange if turn.role != "system" or not turns]
    return chat_format.render(turns)


def _tools(rng: Random) -> list[Piece]:
    tools, turns = tool_chat(rng)
    if rng.random() < 0.3:
        turns = [Turn("system", rng.choice(SYSTEMS)), *turns]
    return chat_format.render(turns, tools)


def _ended(write: _Writer) -> _Writer:
    return lambda rng: [*write(rng), Piece(chat_format.END_OF_TEXT, True)]


def _story(rng: Random) -> list[Piece]:
    return [Piece(story(rng).text, True)]


# Kind -> writer, and how many of 100 documents are of that kind.
CHAT_KINDS: dict[str, tuple[_Writer, int]] = {
    "chat": (_chat, 52),
    "story": (_ended(_story), 8),
    "classification": (_ended(classification), 19),
    "question_and_answer": (_ended(question_and_answer), 10),
    "plain_text": (_ended(plain_text), 7),
    "tools": (_tools, 4),
}


def chat_documents(seed: int) -> Iterator[list[Piece]]:
    """Documents of the chat model, without the begin token."""
    rng = Random(f"chat {seed}")
    writers, weights = zip(*CHAT_KINDS.values(), strict=True)
    while True:
        yield rng.choices(writers, weights)[0](rng)


def pairs(seed: int) -> Iterator[Pair]:
    """Examples of the encoder-decoder model."""
    rng = Random(f"t5 {seed}")
    while True:
        yield pair(rng)


def vocabulary(seed: int = 0, count: int = 6000) -> frozenset[str]:
    """Lower-case words of the first `count` documents of each corpus."""
    texts = ["".join(piece.text for piece in document) for document in islice(chat_documents(seed), count)]
    texts += [f"{each.source} {each.target}" for each in islice(pairs(seed), count)]
    return frozenset(word for text in texts for word in split_words(text))


def split_words(text: str) -> list[str]:
    """The words of `text` in lower case, without marks and digits."""
    return re.findall(r"[a-z]+(?:'[a-z]+)?", text.lower())
