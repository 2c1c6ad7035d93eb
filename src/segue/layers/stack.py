"""A list of equal layers that type checkers see through."""

from collections.abc import Iterable, Iterator
from typing import Generic, TypeVar, cast

from torch import nn

__all__ = ["Stack"]

M = TypeVar("M", bound=nn.Module)


class Stack(nn.ModuleList, Generic[M]):
    """``nn.ModuleList`` whose members have a type."""

    def __init__(self, layers: Iterable[M]) -> None:
        super().__init__(layers)

    def __iter__(self) -> Iterator[M]:
        return cast("Iterator[M]", super().__iter__())
