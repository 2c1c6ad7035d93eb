"""Token and position embeddings, and the output head."""

import torch
from torch import Tensor, nn

from segue.kernels import ops
from segue.layers.base import Layer, parameter
from segue.layers.linear import Linear

__all__ = ["Embedding", "OutputHead"]


class Embedding(Layer):
    """Row ``ids[i]`` of weight [num_embeddings, dim]."""

    def __init__(self, num_embeddings: int, dim: int) -> None:
        super().__init__()
        self.weight = parameter(num_embeddings, dim)

    def forward(self, ids: Tensor) -> Tensor:
        return ops.embedding(ids, self.weight)


class OutputHead(Linear):
    """Hidden states → logits [num_rows, vocab_size].

    ``tied_to``: the embedding whose weight it shares, unless the checkpoint holds another one for the head.
    """

    def __init__(self, vocab_size: int, dim: int, *, bias: bool = False, tied_to: Embedding | None = None) -> None:
        super().__init__(dim, vocab_size, bias=bias)
        self.tied_to = [tied_to] if tied_to is not None else []  # a list, so that it is not a second submodule

    def finish_loading(self) -> None:
        is_open = self.quantized is None and self.packed is None
        for embedding in self.tied_to:
            if embedding.weight.is_meta:  # a checkpoint that kept only the head's of the two names
                embedding.weight = nn.Parameter(self.weight.data.clone(), requires_grad=False)
                if is_open:
                    self.weight = embedding.weight
            elif is_open and (self.weight.is_meta or torch.equal(self.weight, embedding.weight)):
                self.weight = embedding.weight
