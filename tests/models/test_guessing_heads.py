"""Medusa and MLP speculator heads: their own definitions by hand, and what the model says stays the same."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from checkpoints import edit_weights
from parity import Served, save_random_model
from safetensors.torch import save_file
from transformers import CohereConfig, LlamaConfig

from segue.core.errors import ConfigError
from segue.models.guessing_heads import load_heads

HIDDEN, VOCAB_SIZE = 36, 97
MEDUSA_FILE = "medusa_lm_head.safetensors"
LLAMA = LlamaConfig(
    vocab_size=VOCAB_SIZE,
    hidden_size=HIDDEN,
    intermediate_size=50,
    num_hidden_layers=2,
    num_attention_heads=6,
    num_key_value_heads=2,
    max_position_embeddings=256,
)
GENERATOR = torch.Generator().manual_seed(4)


def random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=GENERATOR) * 0.3


def write_medusa(folder: Path, *, num_layers: int = 1, has_outputs: bool = True) -> dict[str, torch.Tensor]:
    folder.mkdir()
    config = {"medusa_num_heads": 3, "medusa_num_layers": num_layers, "base_model_name_or_path": "base"}
    (folder / "config.json").write_text(json.dumps(config))
    weights = {}
    for i in range(3):
        for k in range(num_layers):
            weights[f"{i}.{k}.linear.weight"] = random(HIDDEN, HIDDEN)
            weights[f"{i}.{k}.linear.bias"] = random(HIDDEN)
        if has_outputs:
            weights[f"{i}.{num_layers}.weight"] = random(VOCAB_SIZE, HIDDEN)
    save_file(weights, folder / MEDUSA_FILE)
    return weights


def write_speculator(folder: Path, *, is_tied: bool = False, **options: Any) -> dict[str, torch.Tensor]:
    folder.mkdir()
    config = {"model_type": "mlp_speculator", "n_predict": 3, "inner_dim": 20, "emb_dim": HIDDEN, **options}
    (folder / "config.json").write_text(json.dumps(config))
    weights = {}
    for i in range(3):
        if not is_tied or i < 2:
            weights[f"speculator.proj.{i}.weight"] = random(20, HIDDEN if i == 0 else 20)
        if not is_tied or i == 0:
            weights[f"speculator.emb.{i}.weight"] = random(VOCAB_SIZE, 20)
            weights[f"speculator.head.{i}.weight"] = random(VOCAB_SIZE, 20)
            weights[f"speculator.ln.{i}.weight"] = 1 + random(20)
            weights[f"speculator.ln.{i}.bias"] = random(20)
    save_file(weights, folder / "model.safetensors")
    return weights


def guesses(folder: Path, hidden: torch.Tensor, token_ids: torch.Tensor, head: torch.Tensor) -> torch.Tensor:
    heads = load_heads(folder, HIDDEN, torch.float32, torch.device("cpu"))
    assert heads.num_tokens == 3
    return heads.guess(hidden, token_ids, lambda x: F.linear(x, head))


@pytest.mark.parametrize("has_outputs", [True, False], ids=["own outputs", "the model's output"])
@pytest.mark.parametrize("num_layers", [1, 2])
def test_S8_medusa(num_layers: int, has_outputs: bool, tmp_path: Path) -> None:
    weights = write_medusa(tmp_path / "heads", num_layers=num_layers, has_outputs=has_outputs)
    hidden, head = random(5, HIDDEN), random(VOCAB_SIZE, HIDDEN)
    found = guesses(tmp_path / "heads", hidden, torch.arange(5), head)
    for i in range(3):
        x = hidden
        for k in range(num_layers):
            y = x @ weights[f"{i}.{k}.linear.weight"].T + weights[f"{i}.{k}.linear.bias"]
            x = x + y * torch.sigmoid(y)
        output = weights[f"{i}.{num_layers}.weight"] if has_outputs else head
        assert found[:, i].tolist() == (x @ output.T).argmax(-1).tolist()


@pytest.mark.parametrize("is_tied", [False, True])
@pytest.mark.parametrize("scale_input", [False, True])
def test_S8_mlp_speculator(is_tied: bool, scale_input: bool, tmp_path: Path) -> None:
    weights = write_speculator(tmp_path / "heads", is_tied=is_tied, scale_input=scale_input)

    def weight(name: str, i: int, leaf: str = "weight") -> torch.Tensor:
        shared = {"proj": 1}.get(name, 0)
        return weights[f"speculator.{name}.{min(i, shared) if is_tied else i}.{leaf}"]

    def rms(x: torch.Tensor) -> torch.Tensor:
        return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt()

    hidden, ids = random(5, HIDDEN), torch.arange(5)
    found = guesses(tmp_path / "heads", hidden, ids, random(1, HIDDEN))
    state_weight = 0.5 ** (0.5 / 3)
    token_weight = math.sqrt((1 - state_weight**2) * 20 / 2)
    state = rms(hidden) / math.sqrt(2) if scale_input else hidden
    for i in range(3):
        state = state @ weight("proj", i).T * state_weight + weight("emb", i)[ids] * token_weight
        state = F.gelu(rms(state) * weight("ln", i) + weight("ln", i, "bias"))
        ids = (state @ weight("head", i).T).argmax(-1)
        assert found[:, i].tolist() == ids.tolist()


@pytest.mark.parametrize("kind", ["medusa", "mlp_speculator"])
def test_S8_heads_change_nothing(kind: str, tmp_path: Path) -> None:
    save_random_model(LLAMA, tmp_path, gain=3.0, embedding_std=0.05)
    (write_medusa if kind == "medusa" else write_speculator)(tmp_path / "heads")
    prompts = [[(7 * i + k) % VOCAB_SIZE for k in range(5 + i)] for i in range(5)]
    expected = Served(tmp_path).generate(prompts)
    for options in ({}, {"budget": 8}, {"num_blocks": 45}):
        served = Served(tmp_path, draft=tmp_path / "heads", speculate=3, **options)  # type: ignore[arg-type]
        assert served.generate(prompts) == expected
        assert served.generate(prompts) == expected, "from a warm cache"
        assert served.num_drafts > 0


def test_S8_heads_that_are_right_save_steps(tmp_path: Path) -> None:
    """A model that only ever says one token: heads without a residual and with its output matrix say so too."""
    save_random_model(LLAMA, tmp_path)
    embeddings = "model.embed_tokens.weight"
    edit_weights(tmp_path, lambda weights: {**weights, embeddings: weights[embeddings][:1].expand(VOCAB_SIZE, -1)})
    weights = write_medusa(tmp_path / "heads", has_outputs=False)
    save_file({name: torch.zeros_like(each) for name, each in weights.items()}, tmp_path / "heads" / MEDUSA_FILE)
    prompt = [5, 6, 7]
    expected = Served(tmp_path).generate([prompt])
    assert len(set(expected[0])) == 1
    served = Served(tmp_path, draft=tmp_path / "heads", speculate=3)
    assert served.generate([prompt]) == expected
    assert served.num_accepted == served.num_drafts > 0
    assert served.num_steps == 1 + -(-39 // 4)


def test_S8_what_does_not_fit_is_said(tmp_path: Path) -> None:
    write_medusa(tmp_path / "heads")
    with pytest.raises(ConfigError, match="for a model of hidden size 36, this one has 40"):
        load_heads(tmp_path / "heads", 40, torch.float32, torch.device("cpu"))
    save_file({"0.0.linear.weight": random(HIDDEN, HIDDEN)}, tmp_path / "heads" / MEDUSA_FILE)
    with pytest.raises(ConfigError, match=r"lacks the weight 0\.0\.linear\.bias"):
        load_heads(tmp_path / "heads", HIDDEN, torch.float32, torch.device("cpu"))
    (tmp_path / "heads" / MEDUSA_FILE).unlink()
    with pytest.raises(ConfigError, match=r"holds no medusa_lm_head\.safetensors"):
        load_heads(tmp_path / "heads", HIDDEN, torch.float32, torch.device("cpu"))
    small = {"hidden_size": 36, "intermediate_size": 50, "num_hidden_layers": 1, "num_attention_heads": 6}
    save_random_model(CohereConfig(vocab_size=97, **small), tmp_path / "fallback")
    write_medusa(tmp_path / "others")
    with pytest.raises(ConfigError, match="not supported for AutoModel"):
        Served(tmp_path / "fallback", draft=tmp_path / "others", speculate=3)
