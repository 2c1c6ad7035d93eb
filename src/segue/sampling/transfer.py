"""Host to device without waiting for the device."""

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["move", "to_device"]


def to_device(values: Sequence[float] | Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor:
    """[len(values)] on ``device``. ``torch.tensor(values, device="cuda")`` would wait for all queued work instead."""
    return move(torch.tensor(values, dtype=dtype), device)


def move(tensor: Tensor, device: torch.device) -> Tensor:
    """A CPU tensor to ``device``. Only a copy from pinned memory is asynchronous whatever its size."""
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)
