"""What a generator returns: turns of a chat, and pieces of text with their weight in the loss."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from training import words


@dataclass(frozen=True, slots=True)
class Turn:
    """One message of a chat; `role` is system, user, assistant or tool."""

    role: str
    text: str


@dataclass(frozen=True, slots=True)
class Piece:
    """A span of a document; what the model has to say (`learned`) weighs more in the loss than what it is told."""

    text: str
    learned: bool


@dataclass(frozen=True, slots=True)
class Pair:
    """Source and target of one encoder-decoder example."""

    source: str
    target: str


def ask(question: str, answer: str) -> list[Turn]:
    """One question and its answer."""
    return [Turn("user", question), Turn("assistant", answer)]


def person(rng: Random, prefix: str = "") -> dict[str, str]:
    """Slots of a random child: `{n}` and the pronouns `{he}` `{him}` `{his}` `{He}` `{His}`, names led by `prefix`."""
    if rng.random() < 0.5:
        slots = {"n": rng.choice(words.GIRLS), "he": "she", "him": "her", "his": "her", "child": "girl"}
    else:
        slots = {"n": rng.choice(words.BOYS), "he": "he", "him": "him", "his": "his", "child": "boy"}
    slots |= {"He": slots["he"].capitalize(), "His": slots["his"].capitalize()}
    return {prefix + name: value for name, value in slots.items()}


def two_people(rng: Random) -> dict[str, str]:
    """Slots of two children with different names, the second's led by `o`."""
    first = person(rng)
    second = person(rng, "o")
    while second["on"] == first["n"]:
        second = person(rng, "o")
    return first | second
