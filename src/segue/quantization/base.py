"""What a format of quantized checkpoints tells the loader: which tensors make up a weight, and how to read them."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import ClassVar

import torch
from torch import Tensor

from segue.core.errors import ConfigError
from segue.kernels.quantized import Kind, QuantizedWeight, pack_nibbles
from segue.kernels.rounding import Rounding

__all__ = ["CheckpointFormat", "PackedTensors", "grouped_weight"]


class CheckpointFormat(ABC):
    """One checkpoint's format. A module's weight is made of tensors named ``<module>.<leaf>``."""

    name: ClassVar[str]
    """As ``--quantize`` and ``quant_method`` spell it."""
    leaves: ClassVar[tuple[str, ...]]
    """All names that a weight's tensors have; longer ones before those that they end in."""
    markers: ClassVar[tuple[str, ...]]
    """A module with one of these has a quantized weight."""

    @property
    def head_rounding(self) -> Rounding | None:
        """For the output head, which is stored as floats because it is tied to the embeddings; None: it stays."""
        return None

    @abstractmethod
    def read(self, module: str, tensors: Mapping[str, Tensor]) -> QuantizedWeight:
        """The weight of ``module``, whose tensors are given by leaf.

        Raises:
            ConfigError: a tensor is missing, or does not fit the others.
        """

    def split(self, name: str) -> tuple[str, str] | None:
        """A tensor's name → (module, leaf); None for one that no quantized weight has."""
        for leaf in self.leaves:
            if name.endswith("." + leaf):
                return name[: -len(leaf) - 1], leaf
        return None


class PackedTensors:
    """Collects each quantized weight's tensors while a checkpoint is read, in whatever order and file they come."""

    def __init__(self, checkpoint_format: CheckpointFormat, names: Iterable[str]) -> None:
        """``names``: of all tensors of the checkpoint."""
        self._format = checkpoint_format
        leaves: dict[str, set[str]] = {}
        for name in names:
            owner = checkpoint_format.split(name)
            if owner is not None:
                leaves.setdefault(owner[0], set()).add(owner[1])
        self._missing = {module: found for module, found in leaves.items() if found & set(checkpoint_format.markers)}
        self._found: dict[str, dict[str, Tensor]] = {}

    def owns(self, name: str) -> bool:
        owner = self._format.split(name)
        return owner is not None and owner[0] in self._missing

    def take(self, name: str, tensor: Tensor) -> tuple[str, QuantizedWeight] | None:
        """(module, its weight) when ``tensor`` is the last of its tensors. Raises ConfigError as ``read`` does."""
        owner = self._format.split(name)
        assert owner is not None
        module, leaf = owner
        self._found.setdefault(module, {})[leaf] = tensor
        self._missing[module].discard(leaf)
        if self._missing[module]:
            return None
        return module, self._format.read(module, self._found.pop(module))


def grouped_weight(
    module: str,
    codes: Tensor,
    scales: Tensor,
    zeros: Tensor | None,
    *,
    bits: int,
    group: int,
    int8_activations: bool,
    order: Tensor | None = None,
) -> QuantizedWeight:
    """From unsigned codes uint8 [n, k] and one scale and zero a group [n, groups].

    ``group``: inputs of one, at most 0 for all of them; ``zeros`` None: the middle of the codes. ``order``: sorts the
    inputs by group (``int32.order_by_group``).

    Raises:
        ConfigError: the number of groups is not that of the scales.
    """
    n, k = codes.shape
    group = 0 if group <= 0 or group >= k else group
    if order is not None:
        codes = codes[:, order]
    num_groups = 1 if group == 0 else -(-k // group)
    for name, of_groups in (("scales", scales), ("zeros", zeros)):
        if of_groups is not None and of_groups.shape != (n, num_groups):
            raise ConfigError(
                f"{module}: {name} of shape {tuple(of_groups.shape)} for {n} outputs and {num_groups} groups"
            )
    middle = 2 ** (bits - 1)
    if zeros is not None and bool((zeros == middle).all()):
        zeros = None
    if bits == 8:
        codes = (codes ^ 128).view(torch.int8)  # less 128
        zeros = None if zeros is None else zeros.float() - middle
    rounded: Kind = "i8" if bits == 8 else "i4"
    alone: Kind = "i8w" if bits == 8 else "i4w"
    return QuantizedWeight(
        kind=rounded if int8_activations else alone,
        q=codes.contiguous() if bits == 8 else pack_nibbles(codes),
        scales=_of_groups(scales, group),
        zeros=None if zeros is None else _of_groups(zeros, group),
        group=group,
        input_permutation=order,
        in_features=k,
    )


def _of_groups(values: Tensor, group: int) -> Tensor:
    values = values.to(torch.float32)
    return values[:, 0].contiguous() if group == 0 else values.contiguous()
