"""A GPTQ checkpoint from one of floats: a calibration text goes once through the model, which is quantized on the way.

All of the text is one packed batch. When it reaches a linear layer, the layer's inputs are there as the layers before,
already quantized, have made them: the layer is quantized for them, and the pass goes on with what came of it. So there
is one layer's H at a time, and one layer's K/V.
"""

import json
import logging
import re
from collections.abc import Callable, Mapping
from collections.abc import Sequence as Seq
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from segue.core.batch import ScheduledBatch, ScheduledSequence
from segue.core.errors import ConfigError
from segue.core.request import SamplingParams
from segue.layers.attention import KVLayerSpec
from segue.layers.embedding import OutputHead
from segue.layers.linear import Linear
from segue.models.base import Model
from segue.models.loader import linear_part, load_weights
from segue.models.quantized_checkpoint import quantizable_model, write_checkpoint
from segue.models.weight_files import tensor_names, tensors_of, weight_files
from segue.quantization.calibration import Calibration, GPTQOptions, input_products
from segue.quantization.gptq import GPTQ
from segue.runner import kv_cache
from segue.runner.input_batch import InputBatch, KVCaches, input_batch

__all__ = ["LayerProgress", "calibrate_checkpoint"]

LayerProgress = Callable[[int, int], None]
"""Told (layers done, layers in all)."""

BLOCK_SIZE = 16

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Stored:
    """Where a layer's weight, or a part of it, lies in the checkpoint."""

    name: str
    file: Path
    part: int | None

    @property
    def module(self) -> str:
        return self.name.removesuffix(".weight")

    def read(self) -> Tensor:
        return next(tensor for _, tensor in tensors_of(self.file, lambda name: name == self.name))


def calibrate_checkpoint(
    folder: Path,
    output: Path,
    windows: Seq[Seq[int]],
    options: GPTQOptions,
    *,
    device: torch.device | None = None,
    progress: LayerProgress | None = None,
) -> None:
    """Write ``folder``'s model to ``output``, a new or empty folder, the linear layers of its blocks by GPTQ.

    ``windows``: token ids of the calibration text, each stretch read on its own. ``device``: None: CPU.

    Raises:
        ConfigError: the model is quantized already, of no family that is written here, or has an encoder; or
            ``output`` is not empty.
    """
    device = device or torch.device("cpu")
    model = quantizable_model(folder, output, "gptq")
    if model.is_encoder_decoder:
        raise ConfigError("gptq quantization is for models without an encoder; int8 and int4 work with both")
    if not any(windows):
        raise ConfigError("gptq quantization needs a text to calibrate with, and this one is empty")
    load_weights(model, folder, dtype=torch.float32 if device.type == "cpu" else torch.bfloat16, device=device)
    calibrating = _Calibrating(model.eval(), folder, options, progress)
    calibrating.run(_packed(model, windows, device))

    def replace(name: str, tensor: Tensor) -> Mapping[str, Tensor]:
        return calibrating.result.pop(name, {name: tensor})

    output.mkdir(parents=True, exist_ok=True)
    text = json.dumps(options.config(), indent=2)
    (output / "quantize_config.json").write_text(text + "\n", "utf-8")
    write_checkpoint(folder, output, replace, options.config)


class _Calibrating:
    """Quantizes each layer as its inputs come."""

    def __init__(self, model: Model, folder: Path, options: GPTQOptions, progress: LayerProgress | None) -> None:
        self.result: dict[str, dict[str, Tensor]] = {}
        """The checkpoint's name of a weight → the tensors that take its place."""
        self._model, self._options, self._progress = model, options, progress
        self._reader = GPTQ.from_config(options.config(), None)
        self._stored = _stored_weights(model, folder)
        for layer in [layer for layer in self._stored if not self._can_pack(layer)]:
            names = ", ".join(stored.module for stored in self._stored.pop(layer))
            logger.warning("%s: inputs or outputs do not fill words of 32 bits; it stays in floats", names)
        self._total = len(self._stored)

    def _can_pack(self, layer: Linear) -> bool:
        """Words hold several inputs' codes, and several outputs' zeros."""
        count = 32 // self._options.bits
        parts = getattr(layer, "parts", layer.weight.shape[:1])
        return layer.weight.shape[1] % count == 0 and all(part % count == 0 for part in parts)

    def run(self, inputs: InputBatch) -> None:
        handles = [layer.register_forward_pre_hook(self._quantize) for layer in self._stored]
        try:
            with torch.inference_mode():
                self._model(inputs.input_ids, inputs.positions, inputs.ctx)
        finally:
            for handle in handles:
                handle.remove()
        for stored in [stored for parts in self._stored.values() for stored in parts]:
            logger.warning("%s was not used by the calibration text; it stays in floats", stored.module)

    def _quantize(self, layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(layer, Linear)
        weights = self._stored.pop(layer, None)
        if weights is None:
            return
        (x,) = inputs
        calibration = Calibration(input_products(x), self._options)
        layer.packed = None
        for stored in weights:
            weight = stored.read().to(x.device)
            leaves = calibration.quantize(weight.t() if layer.transposed else weight)
            self.result[stored.name] = {f"{stored.module}.{leaf}": tensor.cpu() for leaf, tensor in leaves.items()}
            layer.load_quantized(self._reader.read(stored.module, leaves), stored.part, x.dtype)
        layer.pack()
        if self._progress is not None:
            self._progress(self._total - len(self._stored), self._total)


def _stored_weights(model: Model, folder: Path) -> dict[Linear, list[_Stored]]:
    """Of the layers in numbered blocks: others stay in floats, as other engines expect."""
    weights: dict[Linear, list[_Stored]] = {}
    for file in weight_files(folder):
        for name in tensor_names(file):
            layer, part = linear_part(model, name)
            if layer is not None and not isinstance(layer, OutputHead) and re.search(r"(^|\.)\d+\.", name):
                weights.setdefault(layer, []).append(_Stored(name, file, part))
    return weights


def _packed(model: Model, windows: Seq[Seq[int]], device: torch.device) -> InputBatch:
    sequences, num_blocks = [], 0
    for number, window in enumerate(windows):
        count = -(-len(window) // BLOCK_SIZE)
        sequences.append(
            ScheduledSequence(
                seq_id=number,
                token_ids=list(window),
                num_computed_tokens=0,
                block_table=list(range(num_blocks, num_blocks + count)),
                sampling=SamplingParams(),
                needs_token=False,
                history=list(window),
                num_prompt_tokens=len(window),
                seed=0,
            )
        )
        num_blocks += count
    batch = ScheduledBatch(sequences=sequences, num_decode_sequences=0)
    caches = _shared_caches(model, num_blocks, device)
    return input_batch(batch, caches, BLOCK_SIZE, device, model.long_prompt_boundary)


def _shared_caches(model: Model, num_blocks: int, device: torch.device) -> KVCaches:
    """One for all layers alike: a pass of whole windows reads a layer's K/V only while it is in that layer."""
    of_spec: dict[KVLayerSpec, KVCaches] = {}
    for spec in model.kv_layers:
        if spec not in of_spec:
            of_spec[spec] = kv_cache.allocate([spec], num_blocks, BLOCK_SIZE, model.dtype, device)
    return [of_spec[spec][0] for spec in model.kv_layers]
