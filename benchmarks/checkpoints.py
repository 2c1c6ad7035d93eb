"""Random-weight checkpoints of real shapes, with a tokenizer of whole words: speed needs no trained weights."""

import json
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

__all__ = ["SHAPES", "checkpoint", "words"]

SHAPES: dict[str, Any] = {
    "opt-125m": lambda: transformers.OPTConfig(eos_token_id=2, bos_token_id=2, pad_token_id=1),
    "t5-efficient-tiny": lambda: transformers.T5Config(
        vocab_size=32128,
        d_model=256,
        d_kv=64,
        d_ff=1024,
        num_layers=4,
        num_heads=4,
        decoder_start_token_id=0,
        eos_token_id=1,
        pad_token_id=0,
    ),
    "llama-160m": lambda: transformers.LlamaConfig(
        vocab_size=32000, hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12
    ),
}
"""Name → a config of the published model's shape."""


def checkpoint(name: str, cache: Path) -> Path:
    """The folder of the checkpoint, made once under ``cache`` from seed 0."""
    folder = cache / name
    if (folder / "tokenizer.json").exists():
        return folder
    config = SHAPES[name]()
    torch.manual_seed(0)
    auto = transformers.AutoModelForSeq2SeqLM if config.is_encoder_decoder else transformers.AutoModelForCausalLM
    model = auto.from_config(config)
    model.generation_config.eos_token_id = None
    model.save_pretrained(folder)
    _save_tokenizer(folder, config.vocab_size)
    return folder


def words(token_ids: list[int]) -> str:
    """The text that the checkpoints' tokenizer turns into exactly these ids."""
    return " ".join(f"w{i}" for i in token_ids)


def _save_tokenizer(folder: Path, vocab_size: int) -> None:
    tokenizer = Tokenizer(models.WordLevel({f"w{i}": i for i in range(vocab_size)}, unk_token="w3"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.decoder = decoders.Fuse()
    tokenizer.save(str(folder / "tokenizer.json"))
    facts = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 2048}
    (folder / "tokenizer_config.json").write_text(json.dumps(facts))
