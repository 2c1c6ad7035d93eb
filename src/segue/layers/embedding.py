"""Token and position embeddings, and the output head."""

import torch.nn.functional as F
from torch import Tensor

from segue.kernels import ops
from segue.layers.base import Layer, parameter

__all__ = ["Embedding", "OutputHead"]


class Embedding(Layer):
    """Row ``ids[i]`` of weight [num_embeddings, dim]."""

    def __init__(self, num_embeddings: int, dim: int) -> None:
        super().__init__()
        self.weight = parameter(num_embeddings, dim)

    def forward(self, ids: Tensor) -> Tensor:
        return F.embedding(ids, self.weight)


class OutputHead(Layer):
    """Hidden states → logits [num_rows, vocab_size]; ``tied_to`` shares an embedding's weight."""

    def __init__(self, vocab_size: int, dim: int, *, bias: bool = False, tied_to: Embedding | None = None) -> None:
        super().__init__()
        self.tied_to = [tied_to] if tied_to is not None else []  # a list, so that it is not a second submodule
        if tied_to is None:
            self.weight = parameter(vocab_size, dim)
        self.bias = parameter(vocab_size) if bias else None

    def takes(self, name: str) -> bool:
        return super().takes(name) or (name == "weight" and bool(self.tied_to))

    def load(self, name: str, tensor: Tensor, part: int | None) -> None:
        if not (name == "weight" and self.tied_to):  # a tied head's copy in the checkpoint is the embedding again
            super().load(name, tensor, part)

    def forward(self, hidden: Tensor) -> Tensor:
        weight = self.tied_to[0].weight if self.tied_to else self.weight
        return ops.linear(hidden, weight, self.bias)
