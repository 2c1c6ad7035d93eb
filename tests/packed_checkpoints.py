"""Quantized checkpoints, packed one code at a time, and the model that they stand for."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from checkpoints import edit_config
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

__all__ = [
    "Rounded",
    "awq",
    "bitsandbytes_4bit",
    "bitsandbytes_8bit",
    "gptq",
    "int_quantized",
    "pack_quantized",
    "quantize_checkpoint",
    "round_to_nearest",
    "words",
]

Packed = tuple[dict[str, Tensor], Tensor]
"""A weight's tensors by leaf, and the weight that they stand for."""


def quantize_checkpoint(
    folder: Path,
    model: Any,
    config: dict[str, Any],
    pack: Callable[[str, Tensor], Packed | None],
) -> None:
    """Replace the checkpoint's weights by packed ones, and those of ``model`` by what they stand for.

    ``pack`` is given a module's name and its weight [out, in]; None leaves it as it is.
    """
    tensors = load_file(folder / "model.safetensors")
    for name, module in model.named_modules():
        if not isinstance(module, nn.Linear | Conv1D) or name == "lm_head":
            continue
        stored = "transformer." + name if f"transformer.{name}.weight" in tensors else name
        is_transposed = isinstance(module, Conv1D)
        packed = pack(name, module.weight.data.t() if is_transposed else module.weight.data)
        if packed is None:
            continue
        leaves, weight = packed
        del tensors[f"{stored}.weight"]
        tensors |= {f"{stored}.{leaf}": tensor.contiguous() for leaf, tensor in leaves.items()}
        module.weight.data = weight.t().contiguous() if is_transposed else weight
    save_file(tensors, folder / "model.safetensors")
    edit_config(folder, lambda values: values.update(quantization_config=config))


@dataclass(frozen=True)
class Rounded:
    codes: Tensor
    """[n, k], from 0 on."""
    scales: Tensor
    """float16 [n, groups]."""
    zeros: Tensor
    """[n, groups]."""
    groups: Tensor
    """[k]: of each input."""

    def weight(self) -> Tensor:
        index = self.groups.long()
        return (self.codes - self.zeros[:, index]).float() * self.scales.float()[:, index]


def round_to_nearest(
    weight: Tensor, bits: int, group: int, *, symmetric: bool, groups: Tensor | None = None
) -> Rounded:
    """``groups``: which group each input belongs to, where they are not consecutive."""
    n, k = weight.shape
    group = group if group > 0 else k
    if groups is None:
        groups = torch.arange(k) // group
    count = int(groups.max()) + 1
    top, middle = 2**bits - 1, 2 ** (bits - 1)
    scales, zeros = torch.empty(n, count, dtype=torch.float16), torch.empty(n, count, dtype=torch.int32)
    codes = torch.empty(n, k, dtype=torch.int32)
    for j in range(count):
        columns = (groups == j).nonzero().squeeze(1)
        values = weight[:, columns]
        if symmetric:
            scale = (values.abs().amax(1) / (middle - 1)).half()
            zero = torch.full((n,), middle)
        else:
            low, high = values.amin(1).clamp(max=0), values.amax(1).clamp(min=0)
            scale = ((high - low) / top).half()
            zero = (-low / scale.float()).round().clamp(0, top)
        scales[:, j], zeros[:, j] = scale, zero.int()
        codes[:, columns] = ((values / scale.float()[:, None]).round() + zero[:, None]).clamp(0, top).int()
    return Rounded(codes, scales, zeros, groups.int())


def words(codes: Tensor, bits: int, order: tuple[int, ...] | None = None) -> Tensor:
    """[a, b] → int32 [a, ceil(b · bits / 32)]: the codes of a row after each other, the first in the lowest bits.

    ``order``: which of a word's codes comes first, second, …
    """
    count = 32 // bits
    rows = []
    for row in codes.tolist():
        padded = row + [0] * (-len(row) % count)
        words = []
        for start in range(0, len(padded), count):
            word = 0
            for place in range(count):
                code = padded[start + (place if order is None else order[place])]
                assert 0 <= code < 2**bits
                word |= code << (bits * place)
            words.append(word - 2**32 if word >= 2**31 else word)
        rows.append(words)
    return torch.tensor(rows, dtype=torch.int32)


def gptq(rounded: Rounded, bits: int, *, version: int = 1, with_g_idx: bool = True) -> Packed:
    stored_zeros = (rounded.zeros - 1) % 2**bits if version == 1 else rounded.zeros
    leaves = {
        "qweight": words(rounded.codes, bits).t(),
        "qzeros": words(stored_zeros.t(), bits),
        "scales": rounded.scales.t(),
    }
    if with_g_idx:
        leaves["g_idx"] = rounded.groups
    return leaves, rounded.weight()


def awq(rounded: Rounded) -> Packed:
    order = (0, 2, 4, 6, 1, 3, 5, 7)
    leaves = {
        "qweight": words(rounded.codes.t(), 4, order),
        "qzeros": words(rounded.zeros.t(), 4, order),
        "scales": rounded.scales.t(),
    }
    return leaves, rounded.weight()


def pack_quantized(rounded: Rounded, bits: int, *, symmetric: bool, with_g_idx: bool = False) -> Packed:
    leaves = {
        "weight_packed": words(rounded.codes, bits),
        "weight_scale": rounded.scales,
        "weight_shape": torch.tensor(rounded.codes.shape),
    }
    if not symmetric:
        leaves["weight_zero_point"] = words(rounded.zeros.t(), bits).t()
    if with_g_idx:
        leaves["weight_g_idx"] = rounded.groups
    return leaves, rounded.weight()


def int_quantized(rounded: Rounded, *, symmetric: bool = True) -> Packed:
    leaves = {"weight": (rounded.codes - 128).to(torch.int8), "weight_scale": rounded.scales}
    if not symmetric:
        leaves["weight_zero_point"] = (rounded.zeros - 128).to(torch.int8)
    return leaves, rounded.weight()


def bitsandbytes_8bit(weight: Tensor) -> Packed:
    largest = weight.abs().amax(1)
    codes = (weight / largest[:, None] * 127).round().to(torch.int8)
    leaves = {"weight": codes, "SCB": largest, "weight_format": torch.tensor(0, dtype=torch.uint8)}
    return leaves, codes.float() * largest[:, None] / 127


def bitsandbytes_4bit(weight: Tensor, table: Tensor, name: str, block: int, *, nested: bool) -> Packed:
    n, k = weight.shape
    blocks = weight.reshape(-1, block)
    absmax = blocks.abs().amax(1)
    extra = {}
    stored = absmax
    if nested:
        offset, of_codes = float(absmax.mean()), torch.linspace(-1, 1, 256)
        centred = (absmax - offset).reshape(-1)
        padded = torch.nn.functional.pad(centred, (0, -len(centred) % 16)).view(-1, 16)
        largest = padded.abs().amax(1)
        shares = (padded / largest[:, None]).flatten()[: len(centred)]
        stored = (shares[:, None] - of_codes).abs().argmin(1).to(torch.uint8)
        absmax = of_codes[stored.long()] * largest.repeat_interleave(16)[: len(centred)] + offset
        extra = {"weight.nested_absmax": largest, "weight.nested_quant_map": of_codes.clone()}
    codes = ((blocks / absmax[:, None])[..., None] - table).abs().argmin(2)
    flat = codes.flatten()
    facts: dict[str, Any] = {"quant_type": name, "blocksize": block, "dtype": "float16", "shape": [n, k]}
    if nested:
        facts |= {"nested_blocksize": 16, "nested_dtype": "float32", "nested_offset": offset}
    leaves = {
        "weight": (flat[::2] * 16 + flat[1::2]).to(torch.uint8)[:, None],
        "weight.absmax": stored,
        "weight.quant_map": table.clone(),
        f"weight.quant_state.bitsandbytes__{name}": torch.tensor(list(json.dumps(facts).encode()), dtype=torch.uint8),
        **extra,
    }
    return leaves, (table[codes] * absmax[:, None]).view(n, k)
