"""Small models whose linear weights are rounded: configs, a prompt, and the rounding done to transformers' own."""

from collections.abc import Callable
from typing import Any

from torch import nn
from transformers import GPT2Config, LlamaConfig, PreTrainedConfig
from transformers.pytorch_utils import Conv1D

from segue.kernels.rounding import Rounding, rounded

LLAMA = LlamaConfig(
    vocab_size=97,
    hidden_size=64,
    intermediate_size=128,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=64,
)
FAMILIES: dict[str, PreTrainedConfig] = {
    "llama": LLAMA,
    "tied llama": LlamaConfig(**{**LLAMA.to_dict(), "tie_word_embeddings": True}),
    "gpt2": GPT2Config(vocab_size=97, n_embd=64, n_layer=2, n_head=4, n_positions=64),
}
IDS = [5, 9, 2, 33, 70, 8]


def round_linears(model: Any, to: Callable[[int], Rounding], head: Rounding) -> None:
    """The model's linear weights become what they are rounded to; tied embeddings stay."""
    head_module = model.get_output_embeddings()
    head_module.weight = nn.Parameter(head_module.weight.data.clone())
    for module in model.modules():
        if isinstance(module, nn.Linear | Conv1D):
            weight = module.weight.data.t() if isinstance(module, Conv1D) else module.weight.data
            result = rounded(weight, head if module is head_module else to(weight.shape[1])).dequantize()
            module.weight.data = result.t().contiguous() if isinstance(module, Conv1D) else result
