"""Rotary position embeddings (Su et al. 2021) with the scalings that checkpoints use.

A ``Rotary`` is asked once a step for the positions' ``Rotation``, which every layer then applies to its q and k.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from segue.core.errors import ConfigError
from segue.kernels.cpu.recorder import Traced, TracedIds, TraceError

__all__ = ["RopeParams", "Rotary", "Rotation"]


@dataclass(frozen=True, slots=True)
class Rotation:
    """cos and signed sin [num_tokens, 1, rotary_dim]: a step's rotation."""

    cos: Tensor
    sin: Tensor
    interleaved: bool

    def apply(self, x: Tensor) -> Tensor:
        """Rotate the first ``rotary_dim`` of the last dimension of x [num_tokens, heads, head_dim]."""
        dim = self.cos.shape[-1]
        if dim == x.shape[-1]:
            return self._rotate(x)
        return torch.cat((self._rotate(x[..., :dim]), x[..., dim:]), dim=-1)

    def _rotate(self, x: Tensor) -> Tensor:
        """(a, b) → (a cos - b sin, b cos + a sin), pairs being halves apart or, interleaved, neighbours."""
        swapped = (
            x.unflatten(-1, (-1, 2)).flip(-1).flatten(-2) if self.interleaved else x.roll(x.shape[-1] // 2, dims=-1)
        )
        return torch.addcmul(x * self.cos, swapped, self.sin)


@dataclass(frozen=True, slots=True, kw_only=True)
class RopeParams:
    """config.json's rope settings in one shape, whatever version of transformers wrote them."""

    rotary_dim: int
    theta: float
    max_positions: int
    rope_type: str = "default"
    options: Mapping[str, Any]

    def number(self, name: str, default: float | None = None) -> float:
        value = self.options.get(name)
        if value is None:
            value = default
        if value is None:
            raise ConfigError(f"rope type {self.rope_type!r} needs {name!r} in config.json")
        return float(value)

    @property
    def original_max_positions(self) -> int:
        return int(self.options.get("original_max_position_embeddings") or self.max_positions)

    @property
    def num_positions(self) -> int:
        """How many positions the scaling makes usable; config.json may give the number before or after scaling."""
        if self.rope_type in ("linear", "dynamic"):
            return int(self.max_positions * max(1.0, self.number("factor", 1.0)))
        if self.rope_type == "yarn":
            return max(self.max_positions, int(self.original_max_positions * self.number("factor", 1.0)))
        return self.max_positions


@dataclass(frozen=True, slots=True)
class TracedRotation:
    """A ``Rotation`` of a recorded forward pass (kernels/cpu/recorder.py)."""

    angles: Traced
    interleaved: bool

    def apply(self, x: Any) -> Any:
        return self.angles.recorder.rotate(x, self.angles, interleaved=self.interleaved)


class Rotary(nn.Module):
    """Angles by position, computed every step: 2 us more than a look-up for 16 tokens on a CPU, where the tables of a
    context of 131072 positions would take 256 MB (float32, head_dim 256).
    """

    def __init__(self, params: RopeParams, *, interleaved: bool = False) -> None:
        super().__init__()
        if params.rope_type not in _INVERSE_FREQUENCIES:
            raise ConfigError(
                f"unknown rope type {params.rope_type!r}; known: {', '.join(sorted(_INVERSE_FREQUENCIES))}"
            )
        self.params, self.interleaved = params, interleaved
        self._constants: dict[tuple[bool, torch.device], tuple[Tensor, Tensor, float]] = {}

    @property
    def long_prompt_boundary(self) -> int | None:
        """longrope: prompts of more tokens than this are rotated by the long factors, from their first token on."""
        return self.params.original_max_positions if self.params.rope_type in ("longrope", "su") else None

    def forward(self, positions: Tensor, is_long: Tensor | None, dtype: torch.dtype) -> "Rotation | TracedRotation":
        """positions [num_tokens] int64; ``is_long`` [num_tokens] bool where ``long_prompt_boundary`` is set."""
        if isinstance(positions, TracedIds):
            return self._traced(positions, is_long is not None)
        inverse, sign, factor = self._constants_on(positions.device, False)
        if self.params.rope_type == "dynamic":
            inverse = self._paired(_dynamic(self.params, positions))[:, None]
        elif is_long is not None:
            inverse = torch.where(is_long[:, None, None], self._constants_on(positions.device, True)[0], inverse)
        angles = positions[:, None, None] * inverse
        cos, sin = angles.cos(), angles.sin() * sign
        if factor != 1.0:
            cos = cos * factor
        return Rotation(cos.to(dtype), sin.to(dtype), self.interleaved)

    def _traced(self, positions: TracedIds, may_be_long: bool) -> TracedRotation:
        if self.params.rope_type == "dynamic" or positions.kind != "positions" or positions.offset:
            raise TraceError(f"rope type {self.params.rope_type!r}")
        inverse_frequencies = _INVERSE_FREQUENCIES[self.params.rope_type]
        inverse, factor = inverse_frequencies(self.params, False)
        long_inverse, long_factor = inverse_frequencies(self.params, True) if may_be_long else (inverse, factor)
        angles = positions.recorder.angles(inverse.tolist(), long_inverse.tolist(), factor, long_factor)
        return TracedRotation(angles, self.interleaved)

    def _constants_on(self, device: torch.device, is_long: bool) -> tuple[Tensor, Tensor, float]:
        """Inverse frequencies and, for the sine, signs times factor, [rotary_dim] float32 each; the factor."""
        if (is_long, device) not in self._constants:
            inverse, factor = _INVERSE_FREQUENCIES[self.params.rope_type](self.params, is_long)
            sign = torch.ones_like(inverse)
            sign = torch.stack((-sign, sign), -1).flatten() if self.interleaved else torch.cat((-sign, sign))
            self._constants[is_long, device] = (self._paired(inverse).to(device), (sign * factor).to(device), factor)
        return self._constants[is_long, device]

    def _paired(self, inverse: Tensor) -> Tensor:
        """[…, rotary_dim / 2] → […, rotary_dim]: each frequency at both places of its pair."""
        return inverse.repeat_interleave(2, -1) if self.interleaved else torch.cat((inverse, inverse), -1)


def _periods(params: RopeParams) -> Tensor:
    """[rotary_dim / 2] float32: positions per radian."""
    dim = params.rotary_dim
    return params.theta ** (torch.arange(0, dim, 2, dtype=torch.int64).float() / dim)


def _default(params: RopeParams, is_long: bool) -> tuple[Tensor, float]:
    return 1.0 / _periods(params), 1.0


def _linear(params: RopeParams, is_long: bool) -> tuple[Tensor, float]:
    return 1.0 / _periods(params) / params.number("factor"), 1.0


def _dynamic(params: RopeParams, positions: Tensor) -> Tensor:
    """NTK-aware scaling: the base grows with the length once it passes ``max_positions``. → [num_tokens, dim / 2].

    A token's base follows from its own position, as where a short prompt grows one token a step. transformers rotates
    a long prompt by the base of the longest sequence in the batch, so that a cached key could never be used again.
    """
    dim, factor = params.rotary_dim, params.number("factor")
    length = (positions + 1).clamp(min=params.max_positions)
    growth = (factor * length / params.max_positions) - (factor - 1)
    theta = params.theta * growth ** (dim / (dim - 2))
    exponents = torch.arange(0, dim, 2, dtype=torch.int64, device=positions.device).float() / dim
    return 1.0 / theta[:, None] ** exponents


def _yarn(params: RopeParams, is_long: bool) -> tuple[Tensor, float]:
    """Peng et al. 2023, "YaRN": interpolate low frequencies, keep high ones, ramp between."""
    dim, original = params.rotary_dim, params.original_max_positions
    factor = params.number("factor", params.max_positions / original)

    def mscale(scale: float, weight: float = 1.0) -> float:
        return 1.0 if scale <= 1 else 0.1 * weight * math.log(scale) + 1.0

    attention_factor = params.options.get("attention_factor")
    if attention_factor is None:
        weight, all_dim = params.options.get("mscale"), params.options.get("mscale_all_dim")
        attention_factor = mscale(factor, weight) / mscale(factor, all_dim) if weight and all_dim else mscale(factor)

    def correction_dim(rotations: float) -> float:
        return dim * math.log(original / (rotations * 2 * math.pi)) / (2 * math.log(params.theta))

    low = correction_dim(float(params.options.get("beta_fast") or 32))
    high = correction_dim(float(params.options.get("beta_slow") or 1))
    if params.options.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, dim - 1)
    if low == high:
        high += 0.001
    keep = 1 - ((torch.arange(dim // 2, dtype=torch.float32) - low) / (high - low)).clamp(0, 1)
    periods = _periods(params)
    return 1.0 / (factor * periods) * (1 - keep) + 1.0 / periods * keep, float(attention_factor)


def _llama3(params: RopeParams, is_long: bool) -> tuple[Tensor, float]:
    """Llama 3.1's: wavelengths beyond the old context are stretched by ``factor``, with a smooth band between."""
    factor, original = params.number("factor"), params.original_max_positions
    low, high = params.number("low_freq_factor"), params.number("high_freq_factor")
    plain = 1.0 / _periods(params)
    wavelength = 2 * math.pi / plain
    smooth = (original / wavelength - low) / (high - low)
    smoothed = (1 - smooth) * plain / factor + smooth * plain
    scaled = torch.where(wavelength > original / low, plain / factor, plain)
    between = (wavelength >= original / high) & (wavelength <= original / low)
    return torch.where(between, smoothed, scaled), 1.0


def _longrope(params: RopeParams, is_long: bool) -> tuple[Tensor, float]:
    """Ding et al. 2024, "LongRoPE": a factor a frequency, one set for short prompts and one for long ones."""
    factors = params.options["long_factor" if is_long else "short_factor"]
    original = params.original_max_positions
    scale = params.options.get("factor") or params.max_positions / original
    attention_factor = params.options.get("attention_factor")
    if attention_factor is None:
        attention_factor = 1.0 if scale <= 1 else math.sqrt(1 + math.log(scale) / math.log(original))
    return 1.0 / (torch.tensor(factors, dtype=torch.float32) * _periods(params)), float(attention_factor)


_INVERSE_FREQUENCIES = {
    "default": _default,
    "dynamic": _default,
    "linear": _linear,
    "llama3": _llama3,
    "longrope": _longrope,
    "su": _longrope,
    "yarn": _yarn,
}
"""rope type → (inverse frequencies [rotary_dim / 2] float32, what cos and sin are multiplied by)."""
