"""Quantized checkpoints give the logits of the model that their codes stand for."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import small_models
import torch
from checkpoints import edit_config, edit_weights, hf_logits, logits
from packed_checkpoints import (
    Packed,
    awq,
    bitsandbytes_4bit,
    bitsandbytes_8bit,
    gptq,
    int_quantized,
    pack_quantized,
    quantize_checkpoint,
    round_to_nearest,
)
from parity import save_random_model
from small_models import IDS, LLAMA
from torch import Tensor
from transformers import GPTNeoXConfig, OPTConfig, PreTrainedConfig

from segue.core.errors import ConfigError
from segue.kernels.rounding import FP4, NF4
from segue.quantization.formats import find_quantization

Pack = Callable[[str, Tensor], Packed | None]


def _compare(folder: Path, config: PreTrainedConfig, quantization: dict[str, Any], pack: Pack) -> None:
    """Logits with float activations equal those of the model that the codes stand for."""
    model = save_random_model(config, folder)
    quantize_checkpoint(folder, model, quantization, pack)
    expected = hf_logits(model, IDS)
    exact = logits(folder, IDS, int8_activations=False)
    torch.testing.assert_close(exact, expected, atol=2e-4, rtol=1e-3)


def _gptq_config(bits: int, group: int, **more: Any) -> dict[str, Any]:
    return {"quant_method": "gptq", "bits": bits, "group_size": group, **more}


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("group", [-1, 32, 64])
def test_gptq(bits: int, symmetric: bool, group: int, tmp_path: Path) -> None:
    def pack(name: str, weight: Tensor) -> Packed:
        return gptq(round_to_nearest(weight, bits, group, symmetric=symmetric), bits, with_g_idx=group == 32)

    _compare(tmp_path, LLAMA, _gptq_config(bits, group, sym=symmetric, desc_act=False), pack)


@pytest.mark.parametrize("version", [1, 2])
def test_gptq_zero_points_of_both_versions(version: int, tmp_path: Path) -> None:
    """Version 1 stores a zero of 0 as 15, which a careless + 1 would read as 16."""
    zeros = []

    def pack(name: str, weight: Tensor) -> Packed:
        rounded = round_to_nearest(weight.abs() if "up_proj" in name else weight, 4, 32, symmetric=False)
        zeros.append(rounded.zeros)
        return gptq(rounded, 4, version=version)

    layout = {"checkpoint_format": "gptq_v2"} if version == 2 else {}
    _compare(tmp_path, LLAMA, _gptq_config(4, 32, **layout), pack)
    assert any((zero == 0).any() for zero in zeros)


@pytest.mark.parametrize("shared", [True, False])
def test_gptq_act_order(shared: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Parts of a merged layer have the same order of inputs, as GPTQ gives them, or each its own."""
    generator = torch.Generator().manual_seed(1)
    orders: dict[int, Tensor] = {}

    def pack(name: str, weight: Tensor) -> Packed:
        k = weight.shape[1]
        if not shared or k not in orders:
            orders[k] = torch.randperm(k, generator=generator)
        return gptq(round_to_nearest(weight, 4, 32, symmetric=False, groups=orders[k] // 32), 4)

    _compare(tmp_path, LLAMA, _gptq_config(4, 32, desc_act=True), pack)
    assert ("quantized differently" in caplog.text) is not shared


def test_gptq_groups_that_are_not_whole_are_refused(tmp_path: Path) -> None:
    def pack(name: str, weight: Tensor) -> Packed:
        leaves, expected = gptq(round_to_nearest(weight, 4, 32, symmetric=True), 4)
        leaves["g_idx"][0] = 1
        return leaves, expected

    with pytest.raises(ConfigError, match="g_idx does not give each group its 32 inputs"):
        _compare(tmp_path, LLAMA, _gptq_config(4, 32), pack)


@pytest.mark.parametrize("group", [32, -1])
def test_awq(group: int, tmp_path: Path) -> None:
    config = {"quant_method": "awq", "bits": 4, "group_size": group, "zero_point": True, "version": "gemm"}
    _compare(tmp_path, LLAMA, config, lambda name, weight: awq(round_to_nearest(weight, 4, group, symmetric=False)))


def _scheme(
    bits: int, strategy: str, group: int | None = None, *, symmetric: bool = True, **more: Any
) -> dict[str, Any]:
    weights = {"num_bits": bits, "type": "int", "strategy": strategy, "group_size": group, "symmetric": symmetric}
    return {"targets": ["Linear"], "weights": weights | more, "input_activations": None}


def _compressed(layout: str, *schemes: dict[str, Any], ignore: tuple[str, ...] = ("lm_head",)) -> dict[str, Any]:
    return {
        "quant_method": "compressed-tensors",
        "format": layout,
        "quantization_status": "compressed",
        "config_groups": {f"group_{i}": scheme for i, scheme in enumerate(schemes)},
        "ignore": list(ignore),
    }


INT8_ACTIVATIONS = {"num_bits": 8, "type": "int", "strategy": "token", "dynamic": True, "symmetric": True}


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("group", [None, 32])
def test_compressed_tensors_packed(bits: int, symmetric: bool, group: int | None, tmp_path: Path) -> None:
    def pack(name: str, weight: Tensor) -> Packed:
        return pack_quantized(
            round_to_nearest(weight, bits, group or -1, symmetric=symmetric), bits, symmetric=symmetric
        )

    scheme = _scheme(bits, "group" if group else "channel", group, symmetric=symmetric)
    _compare(tmp_path, LLAMA, _compressed("pack-quantized", scheme), pack)


@pytest.mark.parametrize("bits", [4, 8])
def test_rounded_activations_cost_little(bits: int, tmp_path: Path) -> None:
    """Asked for by the option, or by the checkpoint itself."""

    def pack(name: str, weight: Tensor) -> Packed:
        return pack_quantized(round_to_nearest(weight, bits, 32, symmetric=True), bits, symmetric=True)

    model = save_random_model(LLAMA, tmp_path)
    scheme = _scheme(bits, "group", 32) | {"input_activations": INT8_ACTIVATIONS}
    quantize_checkpoint(tmp_path, model, _compressed("pack-quantized", scheme), pack)
    expected = hf_logits(model, IDS)
    found = logits(tmp_path, IDS)
    assert torch.equal(found, logits(tmp_path, IDS, int8_activations=True))
    assert (found - expected).norm() < 0.05 * expected.norm()


def test_compressed_tensors_act_order(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(1)
    orders = {k: torch.randperm(k, generator=generator) for k in (64, 128)}

    def pack(name: str, weight: Tensor) -> Packed:
        rounded = round_to_nearest(weight, 4, 32, symmetric=True, groups=orders[weight.shape[1]] // 32)
        return pack_quantized(rounded, 4, symmetric=True, with_g_idx=True)

    _compare(tmp_path, LLAMA, _compressed("pack-quantized", _scheme(4, "group", 32, actorder="group")), pack)


@pytest.mark.parametrize("symmetric", [False, True])
def test_compressed_tensors_int8(symmetric: bool, tmp_path: Path) -> None:
    def pack(name: str, weight: Tensor) -> Packed:
        return int_quantized(round_to_nearest(weight, 8, -1, symmetric=symmetric), symmetric=symmetric)

    scheme = _scheme(8, "channel", symmetric=symmetric) | {"input_activations": INT8_ACTIVATIONS}
    _compare(tmp_path, LLAMA, _compressed("int-quantized", scheme), pack)


def test_compressed_tensors_one_scale_for_all(tmp_path: Path) -> None:
    def pack(name: str, weight: Tensor) -> Packed:
        rounded = round_to_nearest(weight.reshape(1, -1), 8, -1, symmetric=True)
        codes = (rounded.codes - 128).to(torch.int8).view(weight.shape)
        return {"weight": codes, "weight_scale": rounded.scales.view(1)}, rounded.weight().view(weight.shape)

    _compare(tmp_path, LLAMA, _compressed("int-quantized", _scheme(8, "tensor")), pack)


def test_compressed_tensors_ignored_and_named_modules(tmp_path: Path) -> None:
    """v of one layer stays in floats beside a packed q and k; the second layer's down has 8 bits of its own."""

    def pack(name: str, weight: Tensor) -> Packed | None:
        if name == "model.layers.0.self_attn.v_proj":
            return None
        if name.endswith("1.mlp.down_proj"):
            return pack_quantized(round_to_nearest(weight, 8, -1, symmetric=True), 8, symmetric=True)
        return pack_quantized(round_to_nearest(weight, 4, 64, symmetric=True), 4, symmetric=True)

    named = _scheme(8, "channel") | {"targets": ["re:.*1\\.mlp\\.down_proj$"]}
    ignore = ("lm_head", "model.layers.0.self_attn.v_proj")
    _compare(tmp_path, LLAMA, _compressed("pack-quantized", _scheme(4, "group", 64), named, ignore=ignore), pack)


def test_bitsandbytes_8bit(tmp_path: Path) -> None:
    config = {"quant_method": "bitsandbytes", "load_in_8bit": True}
    _compare(tmp_path, LLAMA, config, lambda name, weight: bitsandbytes_8bit(weight))


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("name", ["nf4", "fp4"])
def test_bitsandbytes_4bit(name: str, nested: bool, tmp_path: Path) -> None:
    table = torch.tensor({"nf4": NF4, "fp4": FP4}[name])
    config = {"load_in_4bit": True, "bnb_4bit_quant_type": name}
    _compare(tmp_path, LLAMA, config, lambda _, weight: bitsandbytes_4bit(weight, table, name, 64, nested=nested))


FAMILIES = {
    "opt": OPTConfig(
        vocab_size=97, hidden_size=64, ffn_dim=128, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=64, word_embed_proj_dim=64,
    ),
    "gpt2": small_models.FAMILIES["gpt2"],
    "gpt_neox": GPTNeoXConfig(
        vocab_size=97, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=64,
    ),
    "tied llama": small_models.FAMILIES["tied llama"],
}  # fmt: skip


@pytest.mark.parametrize("family", list(FAMILIES))
def test_families(family: str, tmp_path: Path) -> None:
    """Biases, GPT-2's transposed weights, NeoX's rows of q, k and v a head, heads tied to the embeddings."""
    _compare(
        tmp_path,
        FAMILIES[family],
        _gptq_config(4, 32),
        lambda name, weight: gptq(round_to_nearest(weight, 4, 32, symmetric=False), 4),
    )


@pytest.mark.parametrize(
    ("quantization", "message"),
    [
        ({"quant_method": "exl2"}, "Unknown quantization method 'exl2'"),
        ({"quant_method": "fp8"}, "Unknown quantization method 'fp8'"),
        (_gptq_config(3, 128), "GPTQ weights of 3 bits"),
        (_gptq_config(4, 128, checkpoint_format="marlin"), "layout 'marlin'"),
        ({"quant_method": "awq", "bits": 4, "version": "gemv"}, "layout 'gemv'"),
        (_compressed("float-quantized", _scheme(8, "tensor", type="float")), "type float"),
        (_compressed("marlin-24", _scheme(4, "group", 128)), "sparse"),
        (
            {**_compressed("pack-quantized", _scheme(4, "group", 128)), "quantization_status": "initialized"},
            "'initialized'",
        ),
    ],
)
def test_what_cannot_be_read_is_refused_before_loading(
    quantization: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        find_quantization(tmp_path, {"quantization_config": quantization}, None)


@pytest.mark.parametrize(
    ("asked", "stored", "message"),
    [
        ("gptq", None, "`--quantize gptq` needs a checkpoint with such weights"),
        ("awq", "gptq", "the checkpoint is quantized by 'gptq'"),
        ("int8", "gptq", "the checkpoint is quantized by 'gptq'"),
    ],
)
def test_the_option_and_the_checkpoint_must_agree(asked: str, stored: str | None, message: str, tmp_path: Path) -> None:
    config = {} if stored is None else {"quantization_config": _gptq_config(4, 128)}
    with pytest.raises(ConfigError, match=message):
        find_quantization(tmp_path, config, asked)


@pytest.mark.parametrize(
    ("file", "values", "name"),
    [
        ("quantize_config.json", {"bits": 4, "group_size": 128, "desc_act": False}, "gptq"),
        ("quant_config.json", {"w_bit": 4, "q_group_size": 128, "zero_point": True, "version": "GEMM"}, "awq"),
    ],
)
def test_files_of_older_tools(file: str, values: dict[str, Any], name: str, tmp_path: Path) -> None:
    (tmp_path / file).write_text(json.dumps(values))
    found = find_quantization(tmp_path, {}, name)
    assert found is not None
    assert found.name == name
    assert found.stored is not None


def test_a_weight_without_its_scales_is_named(tmp_path: Path) -> None:
    model = save_random_model(LLAMA, tmp_path)
    quantize_checkpoint(
        tmp_path,
        model,
        _gptq_config(4, 32),
        lambda name, weight: gptq(round_to_nearest(weight, 4, 32, symmetric=True), 4),
    )
    dropped = "model.layers.1.mlp.up_proj.scales"
    edit_weights(tmp_path, lambda tensors: {name: t for name, t in tensors.items() if name != dropped})
    with pytest.raises(ConfigError, match=r"model\.layers\.1\.mlp\.up_proj has no scales"):
        logits(tmp_path, IDS)


def test_a_packed_weight_of_the_wrong_shape_is_refused(tmp_path: Path) -> None:
    model = save_random_model(LLAMA, tmp_path)
    quantize_checkpoint(
        tmp_path,
        model,
        _gptq_config(4, 32),
        lambda name, weight: gptq(round_to_nearest(weight[:, :32], 4, 32, symmetric=True), 4),
    )
    with pytest.raises(ConfigError, match=r"down_proj: a quantized weight has shape \(64, 32\), expected \(64, 128\)"):
        logits(tmp_path, IDS)


def test_quantized_weights_need_a_family_written_here(tmp_path: Path) -> None:
    save_random_model(LLAMA, tmp_path)
    edit_config(tmp_path, lambda values: values.update(model_type="no_such", quantization_config=_gptq_config(4, 32)))
    with pytest.raises(ConfigError, match="gptq quantization is not supported for AutoModel"):
        logits(tmp_path, IDS)
