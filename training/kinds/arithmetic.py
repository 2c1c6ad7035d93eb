"""Sums, differences and products of small numbers; counting; small word problems."""
# ruff: noqa: E501, the lines are English

from __future__ import annotations

from random import Random

from training import words
from training.document import Turn, ask, two_people
from training.vary import vary

MAX_TERM = 20
MAX_FACTOR = 10


def problem(rng: Random) -> tuple[int, str, int, int]:
    """Left term, sign, right term, result; small terms come more often."""
    if rng.random() < 0.2:
        left, right = rng.randint(0, MAX_FACTOR), rng.randint(0, MAX_FACTOR)
        return left, "*", right, left * right
    top = 10 if rng.random() < 0.65 else MAX_TERM
    left, right = rng.randint(0, top), rng.randint(0, top)
    if rng.random() < 0.6:
        return left, "+", right, left + right
    left, right = max(left, right), min(left, right)
    return left, "-", right, left - right


_SPOKEN = {"+": "plus", "-": "minus", "*": "times"}


def calculation(rng: Random) -> list[Turn]:
    left, sign, right, result = problem(rng)
    if rng.random() < 0.2:
        said = f"{left} {_SPOKEN[sign]} {right}"
    else:
        said = f"{left} {sign} {right}" if rng.random() < 0.75 else f"{left}{sign}{right}"
    question = vary(
        rng,
        "[What is {p}?|What is {p}?|What is {p}?|Calculate {p}.|{p}|{p} =|{p} = ?|How much is {p}?|What's {p}?|Compute {p}.|Can you solve {p}?]",
        p=said,
    )
    return ask(question, f"{left} {sign} {right} = {result}")


def word_problem(rng: Random) -> list[Turn]:
    slots = two_people(rng) | {"thing": rng.choice((*words.FRUITS, "books", "coins", "balls", "cards", "stones"))}
    if rng.random() < 0.5:
        left, right = rng.randint(1, 10), rng.randint(1, 10)
        text = "{n} has {l} {thing}. [{on} gives {him} {r} more.|{He} gets {r} more from {on}.|{He} buys {r} more.] How many {thing} does {n} have now?"
        answer = f"{{n}} has {left} + {right} = {left + right} {{thing}}."
    else:
        left = rng.randint(2, 12)
        right = rng.randint(1, left)
        text = "{n} has {l} {thing}. [{He} gives {r} to {on}.|{He} loses {r} of them.] How many {thing} does {n} have [now|left]?"
        answer = f"{{n}} has {left} - {right} = {left - right} {{thing}}."
    return ask(vary(rng, text, l=left, r=right, **slots), vary(rng, answer, **slots))


def counting(rng: Random) -> list[Turn]:
    kind = rng.random()
    if kind < 0.4:
        top = rng.randint(3, 20)
        return ask(vary(rng, "[Count to {t}.|Count from 1 to {t}.|Can you count to {t}?|Please count from 1 to {t}.]", t=top),
                   ", ".join(str(number) for number in range(1, top + 1)))  # fmt: skip
    if kind < 0.6:
        number = rng.randint(0, 20)
        return ask(f"Is {number} even or odd?", f"{number} is {'odd' if number % 2 else 'even'}.")
    if kind < 0.8:
        small, big = sorted(rng.sample(range(30), 2))
        first, second = rng.sample((small, big), 2)
        return ask(
            vary(rng, "Which [number|] is [bigger|larger|greater], {f} or {s}?", f=first, s=second).replace("  ", " "),
            f"{big} is bigger than {small}.",
        )
    number = rng.randint(0, 20)
    return ask(f"Write the number {number} as a word.", words.NUMBERS[number])


def arithmetic(rng: Random) -> list[Turn]:
    """One small exercise with numbers."""
    return rng.choices((calculation, word_problem, counting), (72, 18, 10))[0](rng)
