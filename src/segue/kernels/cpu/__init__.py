"""Kernels in C++ for processors. ``_native`` is the module that they are compiled to; it may be missing."""

from functools import cache
from importlib import import_module

__all__ = ["is_available"]


@cache
def is_available() -> bool:
    """Whether this installation was built with a C++ compiler, for this machine."""
    try:
        import_module("segue.kernels.cpu._native")
    except ImportError:
        return False
    return True
