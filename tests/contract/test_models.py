"""Checkpoints of TGI's families, tiny and random, served over HTTP: what comes is what ``transformers`` computes."""

import asyncio
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from checkpoints import edit_config
from contract.live import LiveServer, model_server
from parity import save_random_model
from serving import BOS, EOS, byte_tokenizer, ids_of

from segue.core.errors import SegueError, UnsupportedModelError

VOCAB_SIZE = 258
PROMPTS = ["The quick brown fox", "a", "one two three four five six seven"]
NUM_NEW_TOKENS = 8

SMALL: dict[str, Any] = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 48,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "bos_token_id": BOS,
    "eos_token_id": EOS,
    "pad_token_id": None,
}
GPT: dict[str, Any] = {"vocab_size": VOCAB_SIZE, "n_embd": 48, "n_layer": 2, "n_head": 4, "n_positions": 128}
EXPERTS: dict[str, Any] = {"num_local_experts": 3, "num_experts_per_tok": 2}
LATENT: dict[str, Any] = {
    "num_key_value_heads": 6,
    "kv_lora_rank": 16,
    "q_lora_rank": 24,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_group": 1,
    "topk_group": 1,
    "moe_intermediate_size": 16,
    "first_k_dense_replace": 1,
}
SEQ2SEQ: dict[str, Any] = {
    "vocab_size": VOCAB_SIZE,
    "d_model": 24,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 3,
    "decoder_attention_heads": 3,
    "encoder_ffn_dim": 40,
    "decoder_ffn_dim": 40,
    "max_position_embeddings": 128,
    "pad_token_id": 3,
    "decoder_start_token_id": 2,
    "forced_eos_token_id": None,
}
T5: dict[str, Any] = {
    "vocab_size": VOCAB_SIZE,
    "d_model": 36,
    "d_kv": 10,
    "d_ff": 50,
    "num_layers": 2,
    "num_heads": 3,
    "decoder_start_token_id": 2,
    "pad_token_id": 2,
}

Kind = tuple[str, dict[str, Any]]

CAUSAL: dict[str, Kind] = {
    "llama": ("LlamaConfig", SMALL),
    "mistral": ("MistralConfig", SMALL),
    "mixtral": ("MixtralConfig", {**SMALL, **EXPERTS}),
    "qwen2": ("Qwen2Config", SMALL),
    "qwen3": ("Qwen3Config", {**SMALL, "head_dim": 8}),
    "gemma": ("GemmaConfig", {**SMALL, "head_dim": 8, "pad_token_id": 0}),
    "gemma2": ("Gemma2Config", {**SMALL, "head_dim": 8, "pad_token_id": 0}),
    "gemma3_text": ("Gemma3TextConfig", {**SMALL, "head_dim": 8, "pad_token_id": 0}),
    "phi": ("PhiConfig", SMALL),
    "phi3": ("Phi3Config", SMALL),
    "phimoe": ("PhimoeConfig", {**SMALL, **EXPERTS}),
    "granite": ("GraniteConfig", SMALL),
    "cohere": ("CohereConfig", {**SMALL, "pad_token_id": 0}),
    "starcoder2": ("Starcoder2Config", SMALL),
    "deepseek_v2": ("DeepseekV2Config", {**SMALL, **LATENT}),
    "deepseek_v3": ("DeepseekV3Config", {**SMALL, **LATENT}),
    "dbrx": (
        "DbrxConfig",
        {
            "vocab_size": VOCAB_SIZE,
            "d_model": 48,
            "n_heads": 4,
            "n_layers": 2,
            "max_seq_len": 128,
            "attn_config": {"kv_n_heads": 2, "rope_theta": 10000.0, "clip_qkv": 8.0},
            "ffn_config": {"ffn_hidden_size": 32, "moe_num_experts": 3, "moe_top_k": 2, "hidden_size": 48},
        },
    ),
    "falcon": (
        "FalconConfig",
        {"vocab_size": VOCAB_SIZE, "hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4},
    ),
    "gpt2": ("GPT2Config", GPT),
    "gpt_bigcode": ("GPTBigCodeConfig", GPT),
    "gptj": ("GPTJConfig", {**GPT, "rotary_dim": 4}),
    "gpt_neox": ("GPTNeoXConfig", {k: v for k, v in SMALL.items() if k not in ("num_key_value_heads", "pad_token_id")}),
}
PADDED: dict[str, Kind] = {
    "bloom": ("BloomConfig", {"vocab_size": VOCAB_SIZE, "hidden_size": 48, "n_layer": 2, "n_head": 4}),
    "mpt": (
        "MptConfig",
        {"d_model": 24, "n_heads": 3, "n_layers": 2, "vocab_size": VOCAB_SIZE, "max_seq_len": 128},
    ),
    "opt": (
        "OPTConfig",
        {
            "vocab_size": VOCAB_SIZE,
            "hidden_size": 36,
            "ffn_dim": 50,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "max_position_embeddings": 128,
        },
    ),
}
ENCODER_DECODER: dict[str, Kind] = {
    "t5": ("T5Config", T5),
    "flan-t5": ("T5Config", {**T5, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}),
    "mt5": ("MT5Config", {**T5, "feed_forward_proj": "gated-gelu"}),
    "bart": ("BartConfig", SEQ2SEQ),
    "mbart": ("MBartConfig", SEQ2SEQ),
    "pegasus": ("PegasusConfig", SEQ2SEQ),
    "m2m_100": ("M2M100Config", SEQ2SEQ),
}
OTHERS: dict[str, Kind] = {
    "olmo2": ("Olmo2Config", SMALL),
    "stablelm": ("StableLmConfig", SMALL),
    "codegen": ("CodeGenConfig", {**GPT, "rotary_dim": 4}),
}
WINDOWS: dict[str, Kind] = {
    "mistral": ("MistralConfig", {**SMALL, "sliding_window": 7}),
    "gemma2": ("Gemma2Config", {**SMALL, "head_dim": 8, "pad_token_id": 0, "sliding_window": 7}),
    "starcoder2": ("Starcoder2Config", {**SMALL, "sliding_window": 7}),
}
ROPES: dict[str, Kind] = {
    kind: ("LlamaConfig", {**SMALL, "rope_parameters": {"rope_type": kind, "rope_theta": 10000.0, **fields}})
    for kind, fields in {
        "default": {},
        "linear": {"factor": 2.5},
        "dynamic": {"factor": 2.0},
        "yarn": {"factor": 4.0, "original_max_position_embeddings": 32},
        "llama3": {
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 32,
        },
        "longrope": {
            "short_factor": [1.0, 1.1, 1.2, 1.3],
            "long_factor": [1.5, 3.5, 5.5, 7.5],
            "factor": 2.0,
            "original_max_position_embeddings": 64,
        },
    }.items()
}
OWN_CODE = """
from transformers import LlamaConfig, LlamaForCausalLM


class OwnConfig(LlamaConfig):
    model_type = "own"


class OwnForCausalLM(LlamaForCausalLM):
    config_class = OwnConfig
"""


def save(kind: Kind, folder: Path) -> Any:
    """A random model and a tokenizer of bytes; the model in float32."""
    name, fields = kind
    model = save_random_model(getattr(transformers, name)(**fields), folder, gain=3.0)
    byte_tokenizer(folder)
    return model


def expected_logprobs(model: Any, prompt: list[int], generated: list[int]) -> torch.Tensor:
    """[len(generated), vocab_size] by transformers, in one forward."""
    with torch.inference_mode():
        if model.config.is_encoder_decoder:
            start = [model.config.decoder_start_token_id, *generated[:-1]]
            logits = model(input_ids=torch.tensor([prompt]), decoder_input_ids=torch.tensor([start])).logits[0]
        else:
            logits = model(torch.tensor([[*prompt, *generated[:-1]]])).logits[0, len(prompt) - 1 :]
    return logits.float().log_softmax(-1)


async def check(model: Any, server: LiveServer, prompts: list[str] = PROMPTS) -> None:
    """Greedy, all prompts at once: every token is the most probable, and as probable as it is said to be."""
    parameters = {"details": True, "max_new_tokens": NUM_NEW_TOKENS}
    async with server.client() as client:
        bodies = [{"inputs": prompt, "parameters": parameters} for prompt in prompts]
        replies = await asyncio.gather(*(client.post("/generate", json=body) for body in bodies))
    for prompt, reply in zip(prompts, replies, strict=True):
        details = reply.json()["details"]
        ids = [token["id"] for token in details["tokens"]]
        assert len(ids) == NUM_NEW_TOKENS or (ids[-1], details["finish_reason"]) == (EOS, "eos_token")
        logprobs = expected_logprobs(model, [BOS, *ids_of(prompt)], ids)
        chosen = logprobs[range(len(ids)), ids]
        given = torch.tensor([token["logprob"] for token in details["tokens"]])
        torch.testing.assert_close(given, chosen, atol=1e-3, rtol=0)
        torch.testing.assert_close(chosen, logprobs.max(-1).values, atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", CAUSAL)
async def test_D1_causal_families(name: str, tmp_path: Path) -> None:
    model = save(CAUSAL[name], tmp_path)
    with model_server(tmp_path) as server:
        await check(model, server)


@pytest.mark.parametrize("name", ENCODER_DECODER)
async def test_D2_encoder_decoder_families(name: str, tmp_path: Path) -> None:
    model = save(ENCODER_DECODER[name], tmp_path)
    with model_server(tmp_path) as server:
        await check(model, server)


@pytest.mark.parametrize("name", PADDED)
async def test_D3_families_that_tgi_pads(name: str, tmp_path: Path) -> None:
    model = save(PADDED[name], tmp_path)
    with model_server(tmp_path) as server:
        await check(model, server)


def test_D3_a_recurrent_model_is_refused_in_words(tmp_path: Path) -> None:
    fields = {"vocab_size": VOCAB_SIZE, "hidden_size": 24, "num_hidden_layers": 1, "state_size": 4}
    save(("MambaConfig", fields), tmp_path)
    with pytest.raises(UnsupportedModelError, match="recurrent state"), model_server(tmp_path):
        pass


@pytest.mark.parametrize("name", OTHERS)
async def test_D4_other_models_of_transformers(name: str, tmp_path: Path) -> None:
    model = save(OTHERS[name], tmp_path)
    with model_server(tmp_path) as server:
        await check(model, server)


async def test_D4_a_model_that_brings_its_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    modules = tmp_path / "modules"
    monkeypatch.setattr(transformers.dynamic_module_utils, "HF_MODULES_CACHE", str(modules))
    monkeypatch.setattr("sys.path", [*sys.path])
    folder = tmp_path / "model"
    model = save(CAUSAL["llama"], folder)
    (folder / "own_code.py").write_text(OWN_CODE)
    auto_map = {"AutoConfig": "own_code.OwnConfig", "AutoModelForCausalLM": "own_code.OwnForCausalLM"}
    edit_config(folder, lambda values: values.update(model_type="own", auto_map=auto_map))
    with pytest.raises(SegueError, match=r"trust.remote.code"), model_server(folder):
        pass
    with model_server(folder, trust_remote_code=True) as server:
        await check(model, server)


@pytest.mark.parametrize("dtype", [None, "bfloat16", "float16"])
async def test_D7_dtypes(dtype: str | None, tmp_path: Path) -> None:
    model = save(CAUSAL["llama"], tmp_path)
    with model_server(tmp_path, dtype=dtype) as server:
        # TGI's rule for CPU: float32, whatever the checkpoint is.
        assert server.engine.info.dtype == (dtype or "float32")
        if dtype is None:
            await check(model, server)
        else:
            details = server.generate("The quick", max_new_tokens=4)["details"]
            ids = [token["id"] for token in details["tokens"]]
            exact = expected_logprobs(model, [BOS, *ids_of("The quick")], ids)[range(4), ids]
            rounded = torch.tensor([token["logprob"] for token in details["tokens"]])
            torch.testing.assert_close(rounded, exact, atol=0.3, rtol=0.1)


@pytest.mark.parametrize("name", WINDOWS)
async def test_D7_sliding_windows(name: str, tmp_path: Path) -> None:
    model = save(WINDOWS[name], tmp_path)
    with model_server(tmp_path) as server:
        await check(model, server)


async def test_D8_a_cpu_batches_chunks_and_caches(tmp_path: Path) -> None:
    """Sixteen prompts at once, in chunks, then again from the cache."""
    model = save(CAUSAL["llama"], tmp_path)
    prompts = [f"{number} {'quick brown fox ' * (number % 6)}" for number in range(16)]
    with model_server(tmp_path, max_batch_prefill_tokens=32, max_input_tokens=110, block_size=8) as server:
        assert server.engine.info.device == "cpu"
        await check(model, server, prompts)
        hits = server.metric("segue_prefix_cache_hit_tokens_total")
        await check(model, server, prompts)
        assert server.metric("segue_prefix_cache_hit_tokens_total") >= hits + sum(
            len(each) // 8 * 8 for each in prompts
        )
        await server.until_idle()


@pytest.mark.parametrize("name", ROPES)
async def test_X1_kinds_of_rope(name: str, tmp_path: Path) -> None:
    model = save(ROPES[name], tmp_path)
    with model_server(tmp_path) as server:
        await check(model, server)


@pytest.mark.parametrize(
    ("flags", "kind", "factor"),
    [
        ({"rope_factor": 2.5}, "linear", 2.5),
        ({"rope_scaling": "linear", "rope_factor": 2.5}, "linear", 2.5),
        ({"rope_scaling": "dynamic", "rope_factor": 4.0}, "dynamic", 4.0),
        ({"rope_scaling": "linear"}, "linear", 1.0),
    ],
)
async def test_X1_flags(flags: dict[str, Any], kind: str, factor: float, tmp_path: Path) -> None:
    save(CAUSAL["llama"], tmp_path)
    rope = {"rope_type": kind, "rope_theta": 10000.0, "factor": factor}
    scaled = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, rope_parameters=rope).eval()
    with model_server(tmp_path, **flags) as server:
        await check(scaled, server)
