"""DSPy over Segue's client.

``HFClientTGI``                       DSPy 2.4's and 2.5's class, and for programs that call it by itself; needs no DSPy
``SegueLM``                           a ``dspy.BaseLM``, for DSPy 2.6 to 3.4
``SegueEngine``, ``AsyncSegueEngine``   what ``dspy.LM(engine=…, async_engine=…)`` takes since DSPy 3.4

    import dspy
    from segue.integrations.dspy import SegueLM
    dspy.configure(lm=SegueLM("http://127.0.0.1:8080"))
    print(dspy.ChainOfThought("question -> answer")(question="Why is the sky blue?").answer)
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from segue.integrations.dspy.hf_client import HFClientTGI, TGIResponseError

if TYPE_CHECKING:
    from segue.integrations.dspy.engine import AsyncSegueEngine, SegueEngine
    from segue.integrations.dspy.lm import SegueLM

__all__ = ["AsyncSegueEngine", "HFClientTGI", "SegueEngine", "SegueLM", "TGIResponseError"]

# These import dspy, which takes seconds and may not be there.
_LAZY = {
    "AsyncSegueEngine": "segue.integrations.dspy.engine",
    "SegueEngine": "segue.integrations.dspy.engine",
    "SegueLM": "segue.integrations.dspy.lm",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
