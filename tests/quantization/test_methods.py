"""Methods that round a float checkpoint's weights when it loads."""

from pathlib import Path
from typing import Any

import pytest
import small_models as small
from checkpoints import hf_logits, logits
from parity import save_random_model
from transformers import PreTrainedConfig, T5Config

from segue.core.errors import ConfigError
from segue.kernels.rounding import FP4, NF4, Rounding
from segue.quantization.methods import METHODS, method_named

FAMILIES: dict[str, PreTrainedConfig] = {
    **small.FAMILIES,
}


@pytest.mark.parametrize("family", list(FAMILIES))
@pytest.mark.parametrize("name", METHODS)
def test_logits_are_those_of_the_rounded_weights(name: str, family: str, tmp_path: Path) -> None:
    model = save_random_model(FAMILIES[family], tmp_path)
    before = hf_logits(model, small.IDS)
    method = method_named(name, int8_activations=False)
    small.round_linears(model, method.of_layer, method.of_head)
    expected = hf_logits(model, small.IDS)
    found = logits(tmp_path, small.IDS, quantize=name, int8_activations=False)
    # The kernels may find other scales than the reference: what is compared is how far either is from the floats.
    loss = (expected - before).norm()
    assert (found - expected).norm() < 1.5 * loss
    assert (found - before).norm() < 1.25 * loss


@pytest.mark.parametrize("name", ["int8", "int4"])
def test_rounding_the_activations_too_costs_little(name: str, tmp_path: Path) -> None:
    save_random_model(small.LLAMA, tmp_path)
    exact = logits(tmp_path, small.IDS, quantize=name, int8_activations=False)
    found = logits(tmp_path, small.IDS, quantize=name)
    assert (found - exact).norm() < 0.05 * exact.norm()


@pytest.mark.parametrize("name", ["int8", "bitsandbytes-nf4"])
def test_an_encoder_decoder(name: str, tmp_path: Path) -> None:
    from segue.runner.build import build_runner
    from segue.runner.config import RunnerConfig

    config = T5Config(
        vocab_size=97, d_model=64, d_kv=16, d_ff=128, num_layers=2, num_heads=4, feed_forward_proj="gated-gelu",
        decoder_start_token_id=0,
    )  # fmt: skip
    save_random_model(config, tmp_path)
    _, facts = build_runner(RunnerConfig(model_folder=tmp_path, device="cpu", max_batch_total_tokens=64, quantize=name))
    assert facts.quantize == name


def test_what_is_rounded_to_what() -> None:
    int8, int4, nf4 = (method_named(name) for name in ("int8", "int4", "bitsandbytes-nf4"))
    assert int8.of_layer(100) == int8.of_head == int4.of_head == Rounding(kind="i8")
    assert int4.of_layer(256) == Rounding(kind="i4", group=64)
    assert int4.of_layer(96) == Rounding(kind="i4", group=32)
    assert int4.of_layer(100) == Rounding(kind="i8")
    assert nf4.of_layer(256) == Rounding(kind="i4w", group=64, table=NF4)
    assert method_named("bitsandbytes-fp4").of_layer(256).table == FP4
    assert method_named("eetq").of_layer(256) == method_named("bitsandbytes").of_layer(256) == Rounding(kind="i8w")
    assert method_named("int4", int8_activations=False).of_layer(64).kind == "i4w"
    assert method_named("eetq", int8_activations=True).of_layer(64).kind == "i8"


def test_tables_have_no_products_with_rounded_activations() -> None:
    with pytest.raises(ConfigError, match="int4 has"):
        method_named("bitsandbytes-nf4", int8_activations=True)


def test_unknown_methods() -> None:
    with pytest.raises(ConfigError, match="Unknown quantization method 'exl2'"):
        method_named("exl2")


def test_floats_are_given_up_layer_by_layer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a layer is rounded no other one's floats are held: peak memory is that of the largest layer."""
    from segue.layers.linear import Linear

    save_random_model(small.LLAMA, tmp_path)
    held: list[int] = []
    layers: list[Linear] = []
    create, pack = Linear.__init__, Linear.pack

    def count_and_create(self: Linear, *args: Any, **options: Any) -> None:
        create(self, *args, **options)
        layers.append(self)

    def count_and_pack(self: Linear) -> None:
        held.append(sum(not layer.weight.is_meta for layer in layers))
        pack(self)

    monkeypatch.setattr(Linear, "__init__", count_and_create)
    monkeypatch.setattr(Linear, "pack", count_and_pack)
    logits(tmp_path, small.IDS, quantize="int8")
    assert len(held) >= 9
    assert max(held) <= 3, held  # parts of other merged layers may have come, in the order of the file


def test_int8_activations_need_quantized_weights(tmp_path: Path) -> None:
    save_random_model(small.LLAMA, tmp_path)
    with pytest.raises(ConfigError, match="`--int8-activations` is for quantized weights"):
        logits(tmp_path, small.IDS, int8_activations=True)
