"""Classification by a few examples of each label, in the prompt."""

from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike
from sklearn.utils import column_or_1d  # type: ignore[import-untyped]

from segue.classify.base import TGIClassifier, texts_of
from segue.classify.prompts import FEW_SHOT_PROMPT, FEW_SHOT_TASK, examples_text

__all__ = ["TGIFewShotClassifier"]


class TGIFewShotClassifier(TGIClassifier):
    __doc__ = f"""Shows the model the texts that it was fitted with: a few for each label, for all go into each prompt.

    They are shown label by label, in each in the order of the alphabet: the order in which they came does not matter.

    {TGIClassifier.__doc__}
    examples_ : label → its texts, in the order in which they came.
    """

    _prompt = FEW_SHOT_PROMPT
    _task = FEW_SHOT_TASK

    def fit(self, X: Any, y: ArrayLike) -> Self:
        """Learn the labels ``y`` with their texts ``X``, as many as labels."""
        return self._learn(X, y, y, {})

    def partial_fit(self, X: Any, y: ArrayLike, classes: ArrayLike | None = None) -> Self:
        """Learn further texts, and further labels: those of ``y`` and, without a text so far, of ``classes``."""
        known = [getattr(self, "classes_", None), classes, y]
        labels = np.concatenate([np.asarray(each) for each in known if each is not None])
        return self._learn(X, y, labels, getattr(self, "examples_", {}))

    def _learn(self, X: Any, y: ArrayLike, labels: ArrayLike, known: dict[Any, list[str]]) -> Self:
        texts, targets = texts_of(X), column_or_1d(y, warn=True)
        if len(texts) != len(targets):
            raise ValueError(f"there are {len(texts)} texts and {len(targets)} labels")
        self._set_classes(labels)
        examples = {label: list(known.get(label, ())) for label in self.classes_.tolist()}
        for text, label in zip(texts, targets.tolist(), strict=True):
            examples[label].append(text)
        self.examples_ = examples
        return self

    def _prompt_values(self) -> dict[str, str]:
        shown = {str(label): sorted(texts) for label, texts in self.examples_.items() if texts}
        return {**super()._prompt_values(), "examples": examples_text(shown)}
