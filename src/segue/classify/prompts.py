"""What the classifiers ask: the default wording, and how a template becomes a prompt."""

import re
from collections.abc import Iterable, Mapping

__all__ = [
    "FEW_SHOT_PROMPT",
    "FEW_SHOT_TASK",
    "SYSTEM",
    "ZERO_SHOT_PROMPT",
    "ZERO_SHOT_TASK",
    "examples_text",
    "fill",
    "labels_text",
]

# The sample model is trained on this wording: training/kinds/classification.py has it word for word.
SYSTEM = "You are a precise and brief text classifier. You answer with one label and nothing else."
ZERO_SHOT_TASK = """\
Classify the text below. The possible labels are: {classes}. Choose exactly one label.

Text: "{X}\""""
FEW_SHOT_TASK = """\
Classify the text below. The possible labels are: {classes}. Choose exactly one label.
Here are examples of each label.

{examples}

Text: "{X}\""""

_SECTIONS = "### System:\n{system}\n\n### User:\n{task}\n\n### Assistant:\n"
_EXAMPLES_HEADER = "Examples of '{label}':"
_PLACEHOLDER = re.compile(r"\{(\w+)\}")


def fill(template: str, values: Mapping[str, str]) -> str:
    """``template`` with each ``{name}`` of ``values`` replaced, in one pass.

    Other braces, and braces in the values, stay as they are: a template may hold JSON, a text may hold ``{classes}``.
    """
    return _PLACEHOLDER.sub(lambda match: values.get(match[1], match[0]), template)


ZERO_SHOT_PROMPT = fill(_SECTIONS, {"system": SYSTEM, "task": ZERO_SHOT_TASK})
FEW_SHOT_PROMPT = fill(_SECTIONS, {"system": SYSTEM, "task": FEW_SHOT_TASK})


def labels_text(labels: Iterable[str]) -> str:
    """The value of ``{classes}``."""
    return ", ".join(f"'{label}'" for label in labels)


def examples_text(examples: Mapping[str, Iterable[str]]) -> str:
    """The value of ``{examples}``: a block for each label that has examples."""
    blocks = (
        "\n".join([fill(_EXAMPLES_HEADER, {"label": label}), *(f'"{text}"' for text in texts)])
        for label, texts in examples.items()
    )
    return "\n\n".join(blocks)
