"""scikit-learn classifiers that ask a language model behind TGI's API. Needs ``pip install 'segue[classify]'``."""

try:
    import sklearn  # type: ignore[import-untyped]  # noqa: F401
except ImportError as error:
    raise ImportError("segue.classify needs scikit-learn: pip install 'segue[classify]'") from error

from segue.classify.few_shot import TGIFewShotClassifier
from segue.classify.outcome import ClassificationWarning, TextFailure
from segue.classify.prompts import FEW_SHOT_PROMPT, ZERO_SHOT_PROMPT
from segue.classify.zero_shot import TGIZeroShotClassifier

__all__ = [
    "FEW_SHOT_PROMPT",
    "ZERO_SHOT_PROMPT",
    "ClassificationWarning",
    "TGIFewShotClassifier",
    "TGIZeroShotClassifier",
    "TextFailure",
]
