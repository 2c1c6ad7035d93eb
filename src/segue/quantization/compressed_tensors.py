"""compressed-tensors checkpoints with integer weights: pack-quantized (4 and 8 bits) and int-quantized (8 bits).

Codes are signed. Packed: weight_packed int32 [n, ceil(k · bits / 32)] holds code + 2^(bits-1), weight_shape [n, k],
weight_zero_point int32 [ceil(n · bits / 32), groups]. Not packed: weight int8 [n, k], weight_zero_point int8. Both:
weight_scale [n, groups] (or one for all), weight_g_idx [k] with act-order. What a module's codes mean, its entry of
``config_groups`` says; activations that it rounds to int8 are rounded here too, always by a scale of each row's own.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from segue.core.errors import ConfigError
from segue.kernels.quantized import Kind, QuantizedWeight
from segue.kernels.rounding import Rounding
from segue.quantization.base import CheckpointFormat, grouped_weight
from segue.quantization.int32 import order_by_group, unpack

__all__ = ["HEAD_KEY", "HEAD_KINDS", "CompressedTensors", "Scheme"]

HEAD_KEY = "segue_tied_head"
"""In ``quantization_config``: what a head that is tied to the embeddings, and so stored in floats, is rounded to."""
HEAD_KINDS: dict[Kind, str] = {"i8": "w8a8", "i8w": "w8a16"}
"""Its values."""

_STRATEGIES = ("tensor", "channel", "group")


@dataclass(frozen=True, slots=True)
class Scheme:
    """One entry of ``config_groups``."""

    targets: tuple[str, ...]
    bits: int
    group: int
    """Inputs a scale; 0: all."""
    int8_activations: bool

    @classmethod
    def from_config(cls, name: str, config: Mapping[str, Any], int8_activations: bool | None) -> "Scheme":
        weights = config.get("weights") or {}
        bits, kind, strategy = weights.get("num_bits"), weights.get("type", "int"), weights.get("strategy")
        if kind != "int" or bits not in (4, 8):
            raise ConfigError(f"compressed-tensors: {name} has weights of {bits} bits, type {kind}; int4 and int8 run")
        if strategy not in _STRATEGIES and strategy is not None:
            raise ConfigError(f"compressed-tensors: {name} has the strategy {strategy!r}; {', '.join(_STRATEGIES)} run")
        activations = config.get("input_activations")
        if activations and (activations.get("type", "int") != "int" or activations.get("num_bits") != 8):
            raise ConfigError(f"compressed-tensors: {name} rounds activations to what is not int8")
        group = int(weights.get("group_size") or 0) if strategy in ("group", None) else 0
        rounds = bool(activations) if int8_activations is None else int8_activations
        return cls(tuple(config.get("targets") or ()), bits, max(0, group), rounds)


@dataclass(frozen=True, slots=True)
class CompressedTensors(CheckpointFormat):
    schemes: tuple[Scheme, ...]
    head_kind: Kind | None = None
    """Of a head that is tied to the embeddings; None: it stays as they are."""

    name: ClassVar[str] = "compressed-tensors"
    leaves: ClassVar[tuple[str, ...]] = (
        "weight_packed",
        "weight_scale",
        "weight_zero_point",
        "weight_shape",
        "weight_g_idx",
        "input_scale",
        "input_zero_point",
        "weight",
    )
    markers: ClassVar[tuple[str, ...]] = ("weight_packed", "weight_scale")

    @classmethod
    def from_config(cls, config: Mapping[str, Any], int8_activations: bool | None) -> "CompressedTensors":
        """Raises ConfigError for what is not written here."""
        status = config.get("quantization_status", "compressed")
        if status not in ("compressed", "frozen"):
            raise ConfigError(f"compressed-tensors: the checkpoint is {status!r}; it must be compressed or frozen")
        sparsity = (config.get("sparsity_config") or {}).get("format", "dense")
        if sparsity != "dense" or config.get("format") == "marlin-24":
            raise ConfigError("compressed-tensors: sparse weights are not supported")
        groups = config.get("config_groups") or {}
        if not groups:
            raise ConfigError("compressed-tensors: the config has no `config_groups`")
        schemes = [Scheme.from_config(name, group, int8_activations) for name, group in groups.items()]
        head = next((kind for kind, name in HEAD_KINDS.items() if name == config.get(HEAD_KEY)), None)
        if head is not None and int8_activations is not None:
            head = "i8" if int8_activations else "i8w"
        return cls(tuple(schemes), head)

    @property
    def head_rounding(self) -> Rounding | None:
        return None if self.head_kind is None else Rounding(kind=self.head_kind)

    def read(self, module: str, tensors: Mapping[str, Tensor]) -> QuantizedWeight:
        scheme = self._scheme(module)
        scales = tensors.get("weight_scale")
        if scales is None:
            raise ConfigError(f"{module} has no weight_scale")
        zeros = tensors.get("weight_zero_point")
        if "weight_packed" in tensors:
            codes, zeros = _unpacked(module, tensors, zeros, scheme.bits)
        else:
            codes = _shifted(module, tensors, scheme.bits)
            zeros = None if zeros is None else zeros.to(torch.int16) + 2 ** (scheme.bits - 1)
        n = codes.shape[0]
        order = None
        if "weight_g_idx" in tensors and scheme.group:
            order = order_by_group(module, tensors["weight_g_idx"], scheme.group)
        return grouped_weight(
            module,
            codes,
            _per_output(scales, n),
            None if zeros is None else _per_output(zeros, n),
            bits=scheme.bits,
            group=scheme.group,
            int8_activations=scheme.int8_activations,
            order=order,
        )

    def _scheme(self, module: str) -> Scheme:
        """A module's own name goes before a pattern, a pattern before the class."""
        for matches in (_is_named, _is_like, _is_linear):
            for scheme in self.schemes:
                if matches(module, scheme.targets):
                    return scheme
        raise ConfigError(f"compressed-tensors: no entry of `config_groups` has {module} among its targets")


def _is_named(module: str, targets: Iterable[str]) -> bool:
    return module in targets


def _is_like(module: str, targets: Iterable[str]) -> bool:
    return any(target.startswith("re:") and re.match(target[3:], module) for target in targets)


def _is_linear(module: str, targets: Iterable[str]) -> bool:
    return "Linear" in targets


def _unpacked(
    module: str, tensors: Mapping[str, Tensor], zeros: Tensor | None, bits: int
) -> tuple[Tensor, Tensor | None]:
    """Unsigned codes [n, k] and zeros [n, groups]."""
    shape = tensors.get("weight_shape")
    codes = unpack(tensors["weight_packed"], bits, 1)
    if shape is not None:
        if int(shape[0]) != codes.shape[0] or not codes.shape[1] - 32 // bits < int(shape[1]) <= codes.shape[1]:
            raise ConfigError(f"{module}: weight_shape {shape.tolist()} is not that of weight_packed")
        codes = codes[:, : int(shape[1])]
    if zeros is None or zeros.dtype != torch.int32:
        return codes, None if zeros is None else zeros.to(torch.int16) + 2 ** (bits - 1)
    return codes, unpack(zeros, bits, 0)[: codes.shape[0]]


def _shifted(module: str, tensors: Mapping[str, Tensor], bits: int) -> Tensor:
    codes = tensors.get("weight")
    if codes is None or codes.dtype != torch.int8:
        raise ConfigError(f"{module} has a weight_scale, but neither weight_packed nor an int8 weight")
    return codes.to(torch.int16).add_(2 ** (bits - 1)).to(torch.uint8)


def _per_output(values: Tensor, n: int) -> Tensor:
    """[n, groups], from that, from [n] or from one value for all."""
    if values.numel() == 1:
        return values.reshape(1, 1).expand(n, 1)
    return values.reshape(n, -1)
