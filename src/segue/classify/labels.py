"""Labels as text: a regular expression that admits nothing else, and the label nearest to a free answer."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

__all__ = ["Match", "edit_distance", "label_regex", "nearest_label"]

_SPECIAL = re.compile(r"[\\.^$|?*+()\[\]{}]")
_QUOTES_AND_STOPS = " \t\r\n\"'`“”‘’«».,:;!?*_()[]{}<>"
_WORD = re.compile(r"\S+")
MAX_WORDS = 32
"""Of an answer; whoever has not named a label by then does not."""
PART_WEIGHT = 0.9
"""A label inside a sentence counts less than a label that is the whole answer."""


def label_regex(labels: Sequence[str]) -> str:
    """Matches exactly the labels. Escapes only what is special in every dialect, Python's and Rust's among them."""
    return "(" + "|".join(_SPECIAL.sub(r"\\\g<0>", label) for label in labels) + ")"


@dataclass(frozen=True, slots=True)
class Match:
    index: int
    similarity: float
    """From 0 (nothing in common) to 1 (the same, but for case and punctuation around it)."""


def nearest_label(answer: str, labels: Sequence[str]) -> Match | None:
    """The label that ``answer``, or a run of its words, comes nearest to; None if nothing has anything in common.

    Equal matches: the one that begins first in the answer, then the longer label, then the first label.
    """
    folded = [_fold(label) for label in labels]
    words = _WORD.findall(answer)[:MAX_WORDS]
    best: tuple[float, int, int, int] | None = None
    for index, label in enumerate(folded):
        for similarity, position in _similarities(words, label):
            rank = (similarity, -position, len(label), -index)
            if best is None or rank > best:
                best = rank
    return None if best is None or best[0] <= 0 else Match(-best[3], best[0])


def _similarities(words: Sequence[str], label: str) -> Iterator[tuple[float, int]]:
    """(similarity, place of the first word): of the whole, and of every run of as many words as the label has."""
    yield _similarity(_fold(" ".join(words)), label), 0
    size = len(label.split()) or 1
    if size < len(words):
        for start in range(len(words) - size + 1):
            part = _fold(" ".join(words[start : start + size]))
            yield PART_WEIGHT * _similarity(part, label), start


def _fold(text: str) -> str:
    """Case and punctuation around a text mean nothing; of a text that is all punctuation nothing is taken away."""
    folded = text.casefold()
    return folded.strip(_QUOTES_AND_STOPS) or folded.strip()


def _similarity(a: str, b: str) -> float:
    longest = max(len(a), len(b))
    if min(len(a), len(b)) == 0:
        return 0.0
    return 1.0 - edit_distance(a, b) / longest


def edit_distance(a: str, b: str) -> int:
    """Insertions, deletions and replacements of characters between ``a`` and ``b`` (Wagner and Fischer 1974)."""
    if len(a) < len(b):
        a, b = b, a
    above = list(range(len(b) + 1))
    for row, char in enumerate(a, 1):
        current = [row]
        for column, other in enumerate(b, 1):
            current.append(min(above[column] + 1, current[-1] + 1, above[column - 1] + (char != other)))
        above = current
    return above[-1]
