"""Activations by the names that config.json uses."""

from collections.abc import Callable
from functools import partial

from torch import Tensor

from segue.core.errors import ConfigError
from segue.kernels import ops

__all__ = ["activation", "activation_name"]

_NAMES = {
    "gelu": "gelu",
    "gelu_10": "gelu_10",
    "gelu_fast": "gelu_tanh",
    "gelu_new": "gelu_tanh",
    "gelu_python": "gelu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "linear": "none",
    "mish": "mish",
    "quick_gelu": "quick_gelu",
    "relu": "relu",
    "relu2": "relu2",
    "relu6": "relu6",
    "sigmoid": "sigmoid",
    "silu": "silu",
    "swish": "silu",
    "tanh": "tanh",
}
"""config.json's name → the operator's (``kernels.ops.ACTIVATIONS``)."""


def activation_name(name: str) -> str:
    """The operator's name. Raises ConfigError for a name that no family here uses."""
    if name not in _NAMES:
        raise ConfigError(f"unknown activation {name!r}; known: {', '.join(sorted(_NAMES))}")
    return _NAMES[name]


def activation(name: str) -> Callable[[Tensor], Tensor]:
    """Raises ConfigError for a name that no family here uses."""
    return partial(ops.activate, name=activation_name(name))
