"""Phi-3, Phi-3.5 and Phi-4 (Abdin et al. 2024): Llama with merged projections in the checkpoint and longrope.

A request keeps to the factors that its prompt's length asks for (short or long) until its end. transformers computes
the whole sequence again when generation crosses ``original_max_position_embeddings``.
"""

from typing import Any

from segue.models.config import HFConfig
from segue.models.llama import LlamaForCausalLM

__all__ = ["Phi3ForCausalLM"]

DEFAULTS: dict[str, Any] = {
    "vocab_size": 32064,
    "hidden_size": 3072,
    "intermediate_size": 8192,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "max_position_embeddings": 4096,
    "original_max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
}


class Phi3ForCausalLM(LlamaForCausalLM):
    def __init__(self, config: HFConfig) -> None:
        values = {**DEFAULTS, **config.values}
        for key in ("rope_parameters", "rope_scaling"):
            rope = values.get(key)
            if rope and (rope.get("rope_type") or rope.get("type")) in ("su", "yarn"):  # longrope's first names
                values[key] = {**rope, "rope_type": "longrope"}
        super().__init__(HFConfig(values))
