"""Codes of 4 or 8 bits packed in int32, the lowest first: what most checkpoint formats hold."""

import torch
from torch import Tensor

from segue.core.errors import ConfigError

__all__ = ["order_by_group", "pack", "unpack"]


def unpack(packed: Tensor, bits: int, dim: int, order: tuple[int, ...] | None = None) -> Tensor:
    """int32 [a, b] → uint8 codes: 32 / ``bits`` of them from each, along ``dim``.

    ``order``: the place among them of each code, from the lowest bits on (AWQ's interleaving); None: as they lie.
    """
    count = 32 // bits
    shape = list(packed.shape)
    shape[dim] *= count
    codes = torch.empty(shape, dtype=torch.uint8, device=packed.device)
    for i in range(count):
        place = i if order is None else order[i]
        some = codes[place::count] if dim == 0 else codes[:, place::count]
        some.copy_((packed >> (bits * i)) & (2**bits - 1))
    return codes


def order_by_group(module: str, g_idx: Tensor, group: int) -> Tensor | None:
    """Each input's group [k] → the inputs sorted by group, stably; None: they are in that order already.

    Raises:
        ConfigError: the groups are not of ``group`` inputs each.
    """
    k = g_idx.shape[0]
    places = torch.arange(k, device=g_idx.device)
    if group == 0 or torch.equal(g_idx.long(), places // group):
        return None
    groups, order = torch.sort(g_idx.long(), stable=True)
    if not torch.equal(groups, places // group):
        raise ConfigError(f"{module}: g_idx does not give each group its {group} inputs")
    return order


def pack(codes: Tensor, bits: int) -> Tensor:
    """uint8 codes [a, b] → int32 [a, ceil(b · ``bits`` / 32)]; the last word is filled up with 0."""
    count = 32 // bits
    padded = torch.nn.functional.pad(codes, (0, -codes.shape[1] % count))
    words = torch.zeros(codes.shape[0], padded.shape[1] // count, dtype=torch.int32, device=codes.device)
    for place in range(count):
        words |= padded[:, place::count].to(torch.int32) << (bits * place)
    return words
