"""``Layer``: a module whose weights arrive one checkpoint tensor at a time."""

import torch
from torch import Tensor, nn

from segue.core.errors import ConfigError

__all__ = ["Layer", "emptied", "parameter"]


def parameter(*shape: int) -> nn.Parameter:
    """A weight without memory: the loader gives it its tensor."""
    return nn.Parameter(torch.empty(shape, device="meta"), requires_grad=False)


def emptied(weight: Tensor) -> nn.Parameter:
    """What stands for ``weight`` once its memory is given up: its shape and dtype."""
    # Not empty_like: of a tensor on "meta" that is Python, which imports sympy first, 0.3 s.
    return nn.Parameter(torch.empty(weight.shape, dtype=weight.dtype, device="meta"), requires_grad=False)


class Layer(nn.Module):
    """Base of every layer that holds weights."""

    def takes(self, name: str) -> bool:
        """Whether the checkpoint's tensor ``name`` belongs here."""
        return name in self._parameters and self._parameters[name] is not None

    def load(self, name: str, tensor: Tensor, part: int | None) -> None:
        """Take the checkpoint's ``tensor`` for the parameter ``name``.

        ``part``: which part of a merged parameter it is (see ``MergedLinear``), None when it is the whole.

        Raises:
            ConfigError: the shape is not the one that config.json implies.
        """
        expected = self.get_parameter(name).shape
        if part is not None or tensor.shape != expected:
            raise ConfigError(f"{name} has shape {tuple(tensor.shape)} in the checkpoint, expected {tuple(expected)}")
        setattr(self, name, nn.Parameter(tensor, requires_grad=False))

    def missing(self) -> list[str]:
        """Parameters that no tensor of the checkpoint gave a value to."""
        return [name for name, weight in self.named_parameters(recurse=False) if weight.is_meta]

    def finish_loading(self) -> None:
        """Called once after the model's last tensor: derive here what follows from the weights."""

    def pack(self) -> None:
        """Called once when the model is whole: bring the weights into the form that is fastest to read."""
