"""A model that is small enough to load in no time, in Hugging Face layout: for tests of whole processes."""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

__all__ = ["write_tiny_llama"]

EOS = 257
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 260,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-6,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
    "bos_token_id": 256,
    "eos_token_id": EOS,
    "dtype": "float32",
}
CHAT_TEMPLATE = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}<assistant>"


def write_tiny_llama(folder: Path, *, seed: int = 0) -> Path:
    """One token a byte. What it writes is noise, but the same noise every time, and greedily it never ends."""
    (folder / "config.json").write_text(json.dumps(CONFIG))
    save_file(_weights(seed), folder / "model.safetensors")
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {character: index for index, character in enumerate(alphabet)}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<s>", "</s>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"bos_token": "<s>", "eos_token": "</s>", "chat_template": CHAT_TEMPLATE}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def _weights(seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator) * 0.2

    weights = {
        "model.embed_tokens.weight": random(260, 32),
        "lm_head.weight": random(260, 32),
        "model.norm.weight": torch.ones(32),
    }
    weights["lm_head.weight"][EOS] = 0.0  # its logit is 0, and among 259 others some are above
    for layer in range(2):
        prefix = f"model.layers.{layer}."
        weights |= {
            prefix + "self_attn.q_proj.weight": random(32, 32),
            prefix + "self_attn.k_proj.weight": random(16, 32),
            prefix + "self_attn.v_proj.weight": random(16, 32),
            prefix + "self_attn.o_proj.weight": random(32, 32),
            prefix + "mlp.gate_proj.weight": random(64, 32),
            prefix + "mlp.up_proj.weight": random(64, 32),
            prefix + "mlp.down_proj.weight": random(32, 64),
            prefix + "input_layernorm.weight": torch.ones(32),
            prefix + "post_attention_layernorm.weight": torch.ones(32),
        }
    return weights
