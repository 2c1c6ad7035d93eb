"""Normalizations."""

from torch import Tensor, nn

from segue.kernels import ops
from segue.layers.base import Layer, parameter

__all__ = ["LayerNorm", "RMSNorm"]


class RMSNorm(Layer):
    """x / rms(x) · (weight + offset). ``offset=1`` is Gemma's form, where the product too is in float32."""

    def __init__(self, dim: int, eps: float, *, offset: float = 0.0) -> None:
        super().__init__()
        self.dim, self.eps, self.offset = dim, eps, offset
        self.weight = parameter(dim)

    def finish_loading(self) -> None:
        if self.offset:
            self.weight = nn.Parameter(self.weight.float() + self.offset, requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return ops.rms_norm(x, self.weight, self.eps)


class LayerNorm(Layer):
    """(x - mean) / std · weight + bias."""

    def __init__(self, dim: int, eps: float, *, bias: bool = True, affine: bool = True) -> None:
        super().__init__()
        self.dim, self.eps = dim, eps
        self.weight = parameter(dim) if affine else None
        self.bias = parameter(dim) if affine and bias else None

    def forward(self, x: Tensor) -> Tensor:
        return ops.layer_norm(x, self.dim, self.weight, self.bias, self.eps)
