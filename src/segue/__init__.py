"""Segue serves language models over TGI's and OpenAI's API, and talks to such servers.

Names are imported when first used: the client side never loads torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from segue._version import __version__

if TYPE_CHECKING:
    from segue.client import AsyncClient, Client
    from segue.core.request import SamplingParams
    from segue.launcher.llm import LLM

__all__ = ["LLM", "AsyncClient", "Client", "SamplingParams", "__version__"]

_LAZY = {
    "AsyncClient": "segue.client",
    "Client": "segue.client",
    "LLM": "segue.launcher.llm",
    "SamplingParams": "segue.core.request",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
