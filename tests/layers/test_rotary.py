"""Rotary positions: every kind's cos and sin against ``transformers``' frequencies, and the rotation itself."""

from typing import Any

import pytest
import torch
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from segue.core.errors import ConfigError
from segue.layers.rotary import RopeParams, Rotary, Rotation
from segue.models.config import HFConfig

HEAD_DIM = 20
HALF = HEAD_DIM // 2
MAX_POSITIONS = 256

KINDS: dict[str, dict[str, Any]] = {
    "linear": {"rope_type": "linear", "factor": 2.5},
    "yarn": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64},
    "yarn, its options": {
        "rope_type": "yarn",
        "factor": 3.0,
        "original_max_position_embeddings": 64,
        "beta_fast": 20.0,
        "beta_slow": 2.0,
        "mscale": 0.7,
        "mscale_all_dim": 0.9,
        "truncate": False,
    },
    "yarn, attention factor": {
        "rope_type": "yarn",
        "factor": 4.0,
        "original_max_position_embeddings": 64,
        "attention_factor": 1.3,
    },
    "llama3": {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    },
    "longrope": {
        "rope_type": "longrope",
        "short_factor": [1.0 + 0.1 * i for i in range(HALF)],
        "long_factor": [1.0 + 2.0 * i for i in range(HALF)],
        "original_max_position_embeddings": 64,
    },
    "longrope, attention factor": {
        "rope_type": "longrope",
        "short_factor": [1.0] * HALF,
        "long_factor": [3.0] * HALF,
        "original_max_position_embeddings": 64,
        "attention_factor": 1.2,
    },
}


def config_with(rope: dict[str, Any], **values: Any) -> HFConfig:
    return HFConfig({"max_position_embeddings": MAX_POSITIONS, "rope_parameters": rope, **values})


def rotation_of(rope: dict[str, Any], positions: torch.Tensor, is_long: torch.Tensor | None = None) -> Rotation:
    return Rotary(config_with(rope).rope(HEAD_DIM))(positions, is_long, torch.float32)


def assert_angles(rotation: Rotation, angles: torch.Tensor, factor: float) -> None:
    """``angles`` [num_tokens, HALF]."""
    cos, sin = angles.cos() * factor, angles.sin() * factor
    torch.testing.assert_close(rotation.cos[:, 0], torch.cat((cos, cos), -1), atol=1e-6, rtol=0)
    torch.testing.assert_close(rotation.sin[:, 0], torch.cat((-sin, sin), -1), atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("share", [1.0, 0.5])
def test_frequencies_are_those_of_transformers(name: str, share: float) -> None:
    rope = {**KINDS[name], "rope_theta": 500.0, "partial_rotary_factor": share}
    for key in ("short_factor", "long_factor"):
        if key in rope:
            rope[key] = rope[key][: int(HALF * share)]
    theirs = LlamaConfig(
        hidden_size=4 * HEAD_DIM,
        num_attention_heads=4,
        head_dim=HEAD_DIM,
        max_position_embeddings=MAX_POSITIONS,
        rope_parameters=dict(rope),
    )
    positions = torch.tensor([0, 1, 17, 63, 64, 200])
    for seq_len in (64, 65):
        inverse, factor = ROPE_INIT_FUNCTIONS[rope["rope_type"]](theirs, torch.device("cpu"), seq_len=seq_len)
        assert inverse.shape == (int(HALF * share),)
        is_long = torch.full((6,), seq_len > 64) if rope["rope_type"] == "longrope" else None
        assert_angles(rotation_of(rope, positions, is_long), positions[:, None].float() * inverse, factor)


def test_default() -> None:
    positions = torch.tensor([0, 3, 100_000])
    inverse = 1.0 / 500.0 ** (torch.arange(0, HEAD_DIM, 2).float() / HEAD_DIM)
    assert_angles(rotation_of({"rope_theta": 500.0}, positions), positions[:, None].float() * inverse, 1.0)


def test_dynamic_grows_with_each_tokens_own_position() -> None:
    """A token at position p is rotated as transformers does where p + 1 tokens are all there is."""
    rope = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 500.0}
    theirs = LlamaConfig(
        hidden_size=4 * HEAD_DIM,
        num_attention_heads=4,
        head_dim=HEAD_DIM,
        max_position_embeddings=MAX_POSITIONS,
        rope_parameters=dict(rope),
    )
    positions = torch.tensor([5, MAX_POSITIONS - 1, MAX_POSITIONS, 3 * MAX_POSITIONS])
    angles = []
    for position in positions:
        inverse, _ = ROPE_INIT_FUNCTIONS["dynamic"](theirs, torch.device("cpu"), seq_len=position + 1)
        angles.append(position.float() * inverse)
    rotation = rotation_of(rope, positions)
    # float32 holds an angle of 768 to 6e-5
    torch.testing.assert_close(rotation.cos[:, 0, :HALF], torch.stack(angles).cos(), atol=1e-4, rtol=0)
    torch.testing.assert_close(rotation.sin[:, 0, HALF:], torch.stack(angles).sin(), atol=1e-4, rtol=0)


def test_long_and_short_prompts_in_one_step() -> None:
    rope = {**KINDS["longrope"], "rope_theta": 500.0}
    positions, is_long = torch.tensor([7, 7, 70]), torch.tensor([True, False, True])
    both = rotation_of(rope, positions, is_long)
    for i in range(3):
        alone = rotation_of(rope, positions[i : i + 1], is_long[i : i + 1])
        assert torch.equal(both.cos[i], alone.cos[0])
    assert not torch.equal(both.cos[0], both.cos[1])


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("rotary_dim", [HEAD_DIM, 8])
def test_rotates_pairs_and_leaves_the_rest(interleaved: bool, rotary_dim: int) -> None:
    torch.manual_seed(0)
    x = torch.randn(5, 3, HEAD_DIM)
    positions = torch.tensor([0, 1, 2, 50, 200])
    params = RopeParams(rotary_dim=rotary_dim, theta=100.0, max_positions=64, options={})
    rotated = Rotary(params, interleaved=interleaved)(positions, None, torch.float32).apply(x)
    half = rotary_dim // 2
    angles = positions[:, None].double() * 100.0 ** (-torch.arange(half).double() / half)
    turn = torch.polar(torch.ones_like(angles), angles)[:, None]
    part = x[..., :rotary_dim].double()
    if interleaved:
        pairs = torch.complex(part[..., 0::2], part[..., 1::2]) * turn
        expected = torch.stack((pairs.real, pairs.imag), -1).flatten(-2)
    else:
        pairs = torch.complex(part[..., :half], part[..., half:]) * turn
        expected = torch.cat((pairs.real, pairs.imag), -1)
    torch.testing.assert_close(rotated[..., :rotary_dim], expected.float(), atol=1e-4, rtol=0)
    assert torch.equal(rotated[..., rotary_dim:], x[..., rotary_dim:])


def test_half_precision_rounds_only_at_the_end() -> None:
    """In bfloat16 positions beyond 256 are not whole numbers any more."""
    positions = torch.tensor([4001, 4002])
    rotary = Rotary(config_with({"rope_theta": 10000.0}).rope(HEAD_DIM))
    exact, rounded = rotary(positions, None, torch.float32), rotary(positions, None, torch.bfloat16)
    assert torch.equal(rounded.cos, exact.cos.bfloat16())
    assert torch.equal(rounded.sin, exact.sin.bfloat16())


def test_settings_of_transformers_4_and_5_mean_the_same() -> None:
    new = config_with({**KINDS["llama3"], "rope_theta": 300.0}).rope(HEAD_DIM)
    scaling = {**KINDS["llama3"], "type": "llama3"}
    del scaling["rope_type"]
    old = config_with({}, rope_theta=300.0, rope_scaling=scaling).rope(HEAD_DIM)
    assert (new.theta, new.rope_type, new.original_max_positions) == (300.0, "llama3", 64)
    assert (old.theta, old.rope_type, old.original_max_positions) == (300.0, "llama3", 64)


def test_layers_of_different_types() -> None:
    config = config_with(
        {
            "full_attention": {"rope_type": "linear", "rope_theta": 5000.0, "factor": 8.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
        }
    )
    full = config.rope(HEAD_DIM, layer_type="full_attention")
    sliding = config.rope(HEAD_DIM, layer_type="sliding_attention")
    assert (full.rope_type, full.theta) == ("linear", 5000.0)
    assert (sliding.rope_type, sliding.theta) == ("default", 100.0)


@pytest.mark.parametrize(
    ("rope", "expected"),
    [
        ({}, 256),
        ({"rope_type": "linear", "factor": 4.0}, 1024),
        ({"rope_type": "dynamic", "factor": 2.0}, 512),
        ({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 256}, 1024),
        ({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}, 256),
        (KINDS["llama3"], 256),
        (KINDS["longrope"], 256),
    ],
)
def test_number_of_positions(rope: dict[str, Any], expected: int) -> None:
    assert config_with(rope).rope(HEAD_DIM).num_positions == expected


def test_unknown_kinds_and_missing_settings_are_named() -> None:
    with pytest.raises(ConfigError, match="spiral"):
        Rotary(config_with({"rope_type": "spiral"}).rope(HEAD_DIM))
    with pytest.raises(ConfigError, match="factor"):
        rotation_of({"rope_type": "linear"}, torch.tensor([1]))
