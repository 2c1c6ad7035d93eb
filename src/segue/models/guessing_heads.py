"""Small heads on a large model's hidden state, each of which guesses one token further ahead."""

import math
from pathlib import Path
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from segue.core.errors import ConfigError
from segue.models.config import HFConfig
from segue.models.weight_files import tensors_of, weight_files

__all__ = ["ComputeLogits", "GuessingHeads", "holds_heads", "load_heads"]

LAYER_NORM_EPS = 1e-6


class ComputeLogits(Protocol):
    def __call__(self, hidden: Tensor, /) -> Tensor: ...


class GuessingHeads(Protocol):
    num_tokens: int
    """How many tokens they guess."""

    def guess(self, hidden: Tensor, token_ids: Tensor, compute_logits: ComputeLogits) -> Tensor:
        """``hidden`` [n, hidden_size], from which ``token_ids`` [n] were sampled → the ids after those [n, num_tokens].

        ``compute_logits``: the large model's own head.
        """


def holds_heads(config: HFConfig) -> bool:
    """Whether a checkpoint is heads, without the model they belong to."""
    return "medusa_num_heads" in config.values or config.model_type == "mlp_speculator"


def load_heads(folder: Path, hidden_size: int, dtype: torch.dtype, device: torch.device) -> GuessingHeads:
    """Raises ConfigError where weights are missing or are for another hidden size."""
    config = HFConfig.from_folder(folder)
    is_medusa = "medusa_num_heads" in config.values
    files = [folder / "medusa_lm_head.safetensors"] if is_medusa else weight_files(folder)
    if not all(file.exists() for file in files):
        raise ConfigError(f"{folder} holds no {files[0].name}")
    tensors = {name: tensor for file in files for name, tensor in tensors_of(file)}
    weights = _Weights(folder, {name: tensor.to(device=device, dtype=dtype) for name, tensor in tensors.items()})
    heads = MedusaHeads(config, weights) if is_medusa else MLPSpeculator(config, weights)
    if heads.hidden_size != hidden_size:
        raise ConfigError(f"{folder} is for a model of hidden size {heads.hidden_size}, this one has {hidden_size}")
    return heads


class _Weights:
    def __init__(self, folder: Path, tensors: dict[str, Tensor]) -> None:
        self._folder, self._tensors = folder, tensors

    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._tensors:
            raise ConfigError(f"{self._folder} lacks the weight {name}")
        return self._tensors[name]

    def last_of(self, pattern: str, i: int) -> Tensor:
        """Of head ``i``; of one before it where heads share the weight and the checkpoint holds it once."""
        shared = [k for k in range(i + 1) if pattern.format(k) in self]
        return self[pattern.format(shared[-1] if shared else i)]


class MedusaHeads:
    """Cai et al., "Medusa: Simple LLM Inference Acceleration Framework with Multiple Decoding Heads" (2024): residual
    blocks, then an output matrix of each head's own or, in checkpoints of the second version, the model's."""

    def __init__(self, config: HFConfig, weights: _Weights) -> None:
        self.num_tokens = config.integer("medusa_num_heads")
        num_blocks = config.integer("medusa_num_layers", 1)
        self._blocks = [
            [(weights[f"{i}.{k}.linear.weight"], weights[f"{i}.{k}.linear.bias"]) for k in range(num_blocks)]
            for i in range(self.num_tokens)
        ]
        has_outputs = f"0.{num_blocks}.weight" in weights
        self._outputs = [weights[f"{i}.{num_blocks}.weight"] if has_outputs else None for i in range(self.num_tokens)]
        self.hidden_size = self._blocks[0][0][0].shape[1]

    def guess(self, hidden: Tensor, token_ids: Tensor, compute_logits: ComputeLogits) -> Tensor:
        """See ``GuessingHeads.guess``."""
        guesses = []
        for blocks, output in zip(self._blocks, self._outputs, strict=True):
            x = hidden.to(blocks[0][0].dtype)
            for weight, bias in blocks:
                x = x + F.silu(F.linear(x, weight, bias))
            logits = compute_logits(x.to(hidden.dtype)) if output is None else F.linear(x, output)
            guesses.append(logits.argmax(-1))
        return torch.stack(guesses, dim=-1)


class MLPSpeculator:
    """Wertheimer et al., "Accelerating Production LLMs with Combined Token/Embedding Speculators" (2024): a head sees
    the state of the one before it and the token that that one guessed."""

    def __init__(self, config: HFConfig, weights: _Weights) -> None:
        self.num_tokens = num = config.integer("n_predict")
        self._embeddings = [weights.last_of("speculator.emb.{}.weight", i) for i in range(num)]
        self._projections = [weights.last_of("speculator.proj.{}.weight", i) for i in range(num)]
        self._heads = [weights.last_of("speculator.head.{}.weight", i) for i in range(num)]
        self._norms = [
            (weights.last_of("speculator.ln.{}.weight", i), weights.last_of("speculator.ln.{}.bias", i))
            for i in range(num)
        ]
        inner_size, self.hidden_size = self._projections[0].shape
        self._scales_input = config.boolean("scale_input", False)
        # Of the state's expected magnitude at the last head half is the model's hidden state.
        self._state_weight = 0.5 ** (0.5 / num)
        self._token_weight = math.sqrt((1 - self._state_weight**2) * (inner_size / 2))

    def guess(self, hidden: Tensor, token_ids: Tensor, compute_logits: ComputeLogits) -> Tensor:
        """See ``GuessingHeads.guess``."""
        state = hidden.to(self._heads[0].dtype)
        if self._scales_input:
            state = _rms(state) / math.sqrt(2)
        guesses = []
        for i in range(self.num_tokens):
            token_ids = token_ids.clamp(max=self._embeddings[i].shape[0] - 1)
            token = F.embedding(token_ids, self._embeddings[i])
            state = F.linear(state, self._projections[i]) * self._state_weight + token * self._token_weight
            weight, bias = self._norms[i]
            state = F.gelu(_rms(state) * weight + bias)
            token_ids = F.linear(state, self._heads[i]).argmax(-1)
            guesses.append(token_ids)
        return torch.stack(guesses, dim=-1)


def _rms(x: Tensor) -> Tensor:
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + LAYER_NORM_EPS)
