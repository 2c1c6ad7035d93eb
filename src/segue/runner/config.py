"""What the runner is told at start."""

from dataclasses import dataclass
from pathlib import Path

__all__ = ["RunnerConfig"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunnerConfig:
    """One device's model and cache."""

    model_folder: Path
    """In Hugging Face layout."""
    draft_model_folder: Path | None = None
    """Of what guesses for the model: a small model with the same vocabulary, or heads on the model's hidden states."""
    dtype: str | None = None
    """``float32``, ``bfloat16`` or ``float16``; None: float32 on CPU, the checkpoint's own on a GPU."""
    quantize: str | None = None
    """How to round a float checkpoint's weights (quantization/methods.py), or what a quantized checkpoint must be."""
    int8_activations: bool | None = None
    """Whether quantized weights meet activations rounded to int8; None: as the checkpoint or the method says."""
    weight_cache: Path | None = None
    """Folder that keeps packed weights for the next start; None: they are packed each time."""
    device: str = "auto"
    """``auto`` (a GPU where there is one), ``cpu``, ``cuda`` or ``cuda:N``."""
    block_size: int = 16
    max_total_tokens: int | None = None
    """Longest sequence; None: what the model allows."""
    max_batch_prefill_tokens: int = 4096
    max_batch_size: int = 256
    max_batch_total_tokens: int | None = None
    """Size of the KV pool in tokens; None: from ``kv_cache_bytes``."""
    kv_cache_bytes: int | None = None
    """Size of the KV pool in bytes; None: a share of the free memory."""
    kv_cache_dtype: str = "auto"
    """Of keys and values: ``float32``, ``bfloat16``, ``float16`` or ``int8``; ``auto``: as ``dtype``."""
    memory_fraction: float = 0.9
    """GPU: how much of the free memory the KV pool may take."""
    num_threads: int | None = None
    """CPU threads for the operators; None: PyTorch's default."""
    trust_remote_code: bool = False
    """Whether the fallback may run code that comes with the checkpoint."""
    rope_scaling: str | None = None
    """Overrides config.json: ``linear`` or ``dynamic``."""
    rope_factor: float | None = None
    watermark_gamma: float = 0.5
    watermark_delta: float = 2.0
