"""What every model family offers the runner, and how it says which checkpoint tensor goes where."""

from collections.abc import Iterable
from typing import ClassVar

import torch
from torch import Tensor, nn

from segue.layers.attention import ForwardContext, KVLayerSpec
from segue.models.config import HFConfig

__all__ = ["Model", "Seq2SeqModel"]


class Model(nn.Module):
    """A causal language model over packed tokens. A family sets the class attributes and defines ``forward``.

    Modules carry the checkpoint's own names, so that most families need no renaming.
    """

    is_encoder_decoder: ClassVar[bool] = False
    is_recordable: ClassVar[bool] = True
    """Its forward pass is made of ``kernels.ops`` and what ``Traced`` values can do."""
    prefix: ClassVar[str] = ""
    """Added to checkpoint names that lack it (some checkpoints were saved from the inner model)."""
    renames: ClassVar[tuple[tuple[str, str], ...]] = ()
    """(regular expression, replacement), applied in order to every checkpoint name."""
    packed: ClassVar[dict[str, tuple[str, int]]] = {}
    """Checkpoint module, by the last one or two parts of its name → (merged module that holds it, which part):
    ``{"q_proj": ("qkv_proj", 0), …}``."""
    ignored: ClassVar[tuple[str, ...]] = ()
    """Ends of checkpoint names that hold nothing to load (masks, buffers, copies of tied weights)."""

    kv_layers: list[KVLayerSpec]
    """One an attention layer, in the order of the layer numbers given to ``Attention``."""
    vocab_size: int
    max_positions: int | None
    """Most tokens of a sequence, None where the position encoding sets no limit."""
    long_prompt_boundary: int | None = None
    """Prompts longer than this are computed differently from their first token on (longrope)."""

    def __init__(self, config: HFConfig) -> None:
        super().__init__()
        self.config = config
        self.dtype = torch.float32
        """What it was loaded to compute in; its K/V have it. Set by the loader."""

    def convert(self, name: str, tensor: Tensor) -> Iterable[tuple[str, Tensor]]:
        """Checkpoint (name, tensor) → what the modules expect; by default unchanged."""
        yield name, tensor

    def finish_loading(self) -> None:
        """Called once after the last tensor: tie what the checkpoint left out, derive what follows from weights."""

    def forward(self, input_ids: Tensor, positions: Tensor, ctx: ForwardContext) -> Tensor:
        """[num_tokens] int64 ids and positions → hidden states [num_tokens, hidden], ready for ``compute_logits``."""
        raise NotImplementedError(f"{type(self).__name__} defines forward")

    def compute_logits(self, hidden: Tensor) -> Tensor:
        """[num_rows, hidden] → [num_rows, vocab_size]."""
        raise NotImplementedError(f"{type(self).__name__} defines compute_logits")


class Seq2SeqModel(Model):
    """An encoder-decoder: ``encode`` runs whole inputs and leaves the cross-attention K/V in the cache."""

    is_encoder_decoder: ClassVar[bool] = True

    def encode(self, input_ids: Tensor, positions: Tensor, ctx: ForwardContext) -> None:
        """Packed encoder inputs [num_tokens]; every decoder layer's cross K/V go to ``ctx.slot_mapping``."""
        raise NotImplementedError(f"{type(self).__name__} defines encode")
