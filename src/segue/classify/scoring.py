"""Probabilities of labels, from the tokens that a model chose and those it nearly chose."""

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Choice", "Step", "label_probabilities"]


@dataclass(frozen=True, slots=True)
class Choice:
    text: str
    probability: float


@dataclass(frozen=True, slots=True)
class Step:
    """One generated token, and other tokens that were likely there."""

    chosen: Choice
    others: tuple[Choice, ...] = ()


def label_probabilities(steps: Sequence[Step], labels: Sequence[str]) -> list[float]:
    """For each label the probability that the answer is it, given that it is one of them. Sums to 1.

    The walk goes along the chosen tokens. What begins exactly one label counts for that label, what begins several off
    the path is divided evenly, what begins none is left out. A label that shows up nowhere gets half of what it could
    have: the probability of a first token that was not listed is at most that of the least likely one that was. Where a
    grammar admits the labels only, and no more of them than the server lists tokens, nothing is estimated.
    """
    spread = _Spread(labels)
    path, reached = "", 1.0
    for step in steps:
        for other in step.others:
            spread.add(path + other.text, reached * other.probability)
        path += step.chosen.text
        reached *= step.chosen.probability
        if len(spread.indices(path)) <= 1:
            spread.add(path, reached)
            break
    else:
        spread.add_answer(path, reached)
    return _normalized(spread.masses, _unseen(steps[0]) if steps else 0.0)


def _begin(text: str) -> str:
    """Without what models like to put before a label."""
    return text.casefold().lstrip(" \t\r\n\"'")


class _Spread:
    def __init__(self, labels: Sequence[str]) -> None:
        self._labels = [_begin(label) for label in labels]
        self.masses = [0.0] * len(labels)

    def add(self, text: str, probability: float) -> None:
        indices = self.indices(text)
        for index in indices:
            self.masses[index] += probability / len(indices)

    def add_answer(self, text: str, probability: float) -> None:
        """As ``add``, of a text that is known to end here: "good" is not "goodness" then."""
        answer = _begin(text).rstrip()
        if answer in self._labels:
            self.masses[self._labels.index(answer)] += probability
        else:
            self.add(text, probability)

    def indices(self, text: str) -> list[int]:
        """The labels that an answer beginning with ``text`` may still become, or has become."""
        begun = _begin(text)
        open_ = [index for index, label in enumerate(self._labels) if label.startswith(begun)]
        if open_:
            return open_
        ended = [
            index
            for index, label in enumerate(self._labels)
            if begun.startswith(label) and not begun[len(label)].isalnum()
        ]
        return [max(ended, key=lambda index: len(self._labels[index]))] if ended else []


def _unseen(step: Step) -> float:
    """The most that a first token may have which is not listed."""
    listed = [step.chosen.probability, *(other.probability for other in step.others)]
    return min(min(listed), max(0.0, 1.0 - sum(listed)))


def _normalized(masses: Sequence[float], unseen: float) -> list[float]:
    filled = [mass or unseen / 2 for mass in masses]
    total = sum(filled)
    return [mass / total for mass in filled] if total > 0 else [1 / len(filled)] * len(filled)
