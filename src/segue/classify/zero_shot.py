"""Classification by the labels' names alone."""

from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike

from segue.classify.base import TGIClassifier
from segue.classify.prompts import ZERO_SHOT_PROMPT, ZERO_SHOT_TASK

__all__ = ["TGIZeroShotClassifier"]


class TGIZeroShotClassifier(TGIClassifier):
    __doc__ = f"""Knows the labels, and no examples of them.

        classifier = TGIZeroShotClassifier("http://127.0.0.1:3000").fit(None, ["politics", "science", "other"])
        classifier.predict(["It is the Electoral College's responsibility to elect the president."])

    {TGIClassifier.__doc__}"""

    _prompt = ZERO_SHOT_PROMPT
    _task = ZERO_SHOT_TASK

    def fit(self, X: Any, y: ArrayLike) -> Self:
        """Learn the labels. ``X`` is not looked at, and may be None."""
        self._set_classes(y)
        return self

    def partial_fit(self, X: Any, y: ArrayLike, classes: ArrayLike | None = None) -> Self:
        """Learn further labels, from ``y`` and ``classes``."""
        known = [getattr(self, "classes_", None), classes, y]
        self._set_classes(np.concatenate([np.asarray(labels) for labels in known if labels is not None]))
        return self
