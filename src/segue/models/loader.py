"""From a checkpoint's tensors to a model with weights, rounding or unpacking those in few bits on the way."""

import logging
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from segue.core.errors import ConfigError
from segue.kernels import cpu
from segue.kernels.quantized import QuantizedWeight
from segue.layers.base import Layer, emptied
from segue.layers.embedding import Embedding, OutputHead
from segue.layers.linear import Linear, MergedLinear
from segue.models.base import Model
from segue.models.weight_cache import WeightCache
from segue.models.weight_files import copied, tensor_names, tensors_of, weight_files
from segue.quantization.base import PackedTensors
from segue.quantization.formats import Quantization

__all__ = ["Progress", "linear_part", "linear_weight", "load_weights"]

Progress = Callable[[int, int], None]
"""Told (bytes done, bytes in all) while weights load."""

logger = logging.getLogger(__name__)

_FLOATS = (torch.float32, torch.bfloat16, torch.float16)
"""What kernels read."""


def load_weights(
    model: Model,
    folder: Path,
    *,
    dtype: torch.dtype,
    device: torch.device,
    quantization: Quantization | None = None,
    cache_folder: Path | None = None,
    progress: Progress | None = None,
) -> None:
    """Give every parameter of ``model`` its tensor from ``folder``, on ``device``, to compute in ``dtype``.

    The CPU's native kernels compute in float32 whatever the weights are in. With them, matrices stay in 16 bits where
    the checkpoint has them so or ``dtype`` says so, and all other weights are float32.

    Tensors that ``quantization`` rounds are read, rounded and given up one by one. Native weights are taken from
    ``cache_folder`` where they are there, and kept there for the next time where they are not.

    Raises:
        ConfigError: a tensor has the wrong shape, or parameters are missing.
    """
    files = weight_files(folder)
    total = sum(file.stat().st_size for file in files)
    done = 0
    loading = _Loading(model, dtype, device, quantization)
    cache = None if cache_folder is None else loading.use_cache(cache_folder, files, quantization)
    packed = None
    if quantization is not None and quantization.stored is not None:
        packed = PackedTensors(quantization.stored, [name for file in files for name in tensor_names(file)])
    for file in files:
        for name, tensor in tensors_of(file, loading.wants):
            if packed is not None and packed.owns(name):
                if (complete := packed.take(name, tensor)) is not None:
                    loading.take_quantized(*complete)
            elif not name.endswith(model.ignored):
                loading.take(name, tensor)
            done += tensor.nbytes
            if progress is not None:
                progress(done, total)
    loading.finish(folder)
    if progress is not None:
        progress(total, total)
    if cache is not None:
        loading.store(cache)


def linear_weight(model: Model, name: str) -> Linear | None:
    """The layer whose float weight the checkpoint's tensor ``name`` is, or is a part of; None: it is another tensor."""
    layer, _ = linear_part(model, name)
    return layer


def linear_part(model: Model, name: str) -> tuple[Linear | None, int | None]:
    """As ``linear_weight``, and which part of a merged layer it is; None: the whole."""
    if not name.endswith(".weight") or name.endswith(model.ignored):
        return None, None
    module, part, leaf = _target(model, _renamed(model, name))
    return (module, part) if leaf == "weight" and isinstance(module, Linear) else (None, None)


class _Loading:
    """Gives tensors to the layers of a model."""

    def __init__(
        self, model: Model, dtype: torch.dtype, device: torch.device, quantization: Quantization | None
    ) -> None:
        self.model, self.dtype, self.device = model, dtype, device
        model.dtype = dtype
        self.is_native = device.type == "cpu" and cpu.is_available()
        self.stored = None if quantization is None else quantization.stored
        self.unexpected: list[str] = []
        self.cached: set[Linear] = set()
        self.layers = {name: module for name, module in model.named_modules() if isinstance(module, Layer)}
        for layer in self.layers.values():
            if isinstance(layer, MergedLinear):
                layer.keeps_parts = self.is_native
            if isinstance(layer, Linear) and quantization is not None:
                is_head = isinstance(layer, OutputHead)
                layer.rounding = quantization.head_rounding if is_head else quantization.rounding(layer.weight.shape[1])

    def use_cache(self, folder: Path, files: list[Path], quantization: Quantization | None) -> WeightCache | None:
        """Take the layers that are in the cache; the cache itself where it is to be written."""
        if not self.is_native:
            return None
        facts = {
            "config": self.model.config.values,
            "dtype": self.dtype,
            "quantization": quantization,
            "layers": [(name, *layer.weight.shape, layer.gate) for name, layer in self._linears()],
        }
        cache = WeightCache(folder, files, facts)
        found = cache.load()
        for name, layer in self._linears():
            if name in found:
                layer.packed = found[name]
                self.cached.add(layer)
        return None if found else cache

    def store(self, cache: WeightCache) -> None:
        packed = {name: layer.packed for name, layer in self._linears()}
        cache.store({name: p for name, p in packed.items() if not isinstance(p, Tensor | QuantizedWeight | None)})

    def wants(self, name: str) -> bool:
        """Whether the checkpoint's tensor is of any use: those of cached layers' weights are not."""
        if not self.cached:
            return True
        owner = None if self.stored is None else self.stored.split(name)
        target = name if owner is None else f"{owner[0]}.weight"
        layer, _, leaf = _target(self.model, _renamed(self.model, target))
        # A tied head's may be the only one that has the embeddings.
        return leaf != "weight" or layer not in self.cached or _is_tied(layer)

    def _linears(self) -> Iterator[tuple[str, Linear]]:
        for name, layer in self.layers.items():
            if isinstance(layer, Linear):
                yield name, layer

    def take(self, name: str, tensor: Tensor) -> None:
        for target, value in self.model.convert(_renamed(self.model, name), tensor):
            if not self._assign(target, value):
                self.unexpected.append(target)

    def take_quantized(self, module: str, weight: QuantizedWeight) -> None:
        """Raises ConfigError for a weight that no linear layer has: nothing else runs in few bits."""
        layer, part, _ = _target(self.model, _renamed(self.model, module + ".weight"))
        if not isinstance(layer, Linear):
            raise ConfigError(f"{module} is quantized in the checkpoint, and is no linear layer of this model")
        try:
            layer.load_quantized(weight.to(self.device), part, self.dtype)
        except ConfigError as error:
            raise ConfigError(f"{module}: {error}") from None
        self._pack_if_complete(layer)

    def _assign(self, name: str, tensor: Tensor) -> bool:
        """False when no module of the model takes this name."""
        module, part, leaf = _target(self.model, name)
        if module is None or not module.takes(leaf):
            return False
        module.load(leaf, self._as_needed(module, leaf, tensor, part), part)
        self._pack_if_complete(module)
        return True

    def _as_needed(self, layer: Layer, leaf: str, tensor: Tensor, part: int | None) -> Tensor:
        """On the device, in the dtype that the layer is to have it in."""
        dtype = self._stored_dtype(layer, leaf, tensor)
        if leaf == "weight" and isinstance(layer, Linear):
            if layer.rounding is not None and not _is_tied(layer):
                return tensor.to(device=self.device, dtype=tensor.dtype if tensor.dtype in _FLOATS else dtype)
            if self.is_native:  # packed from where it is
                return tensor.to(dtype)
        if self.device.type == "cpu":
            # Parts are copied into the whole. Others get memory of their own, aligned, so that the file's pages can go.
            return copied(tensor, dtype) if part is None else tensor.to(dtype=dtype)
        return tensor.to(device=self.device, dtype=dtype)

    def _stored_dtype(self, module: Layer, leaf: str, tensor: Tensor) -> torch.dtype:
        if not self.is_native:
            return self.dtype
        if leaf != "weight" or not isinstance(module, Linear | Embedding):
            return torch.float32
        return tensor.dtype if self.dtype == torch.float32 and tensor.dtype in _FLOATS else self.dtype

    def _pack_if_complete(self, layer: Layer) -> None:
        """Layers that are packed, in floats or in few bits, are so at once: at most one layer's floats or codes, or
        pages of the file, are in memory."""
        if not isinstance(layer, Linear) or _is_tied(layer) or not layer.can_pack:
            return
        if self.is_native or (layer.rounding or layer.quantized) is not None:
            self._pack(layer)

    def _pack(self, layer: Layer) -> None:
        layer.pack()
        if isinstance(layer, Linear) and (layer.weight.is_meta or layer in self.cached):
            layer.weight = emptied(layer.weight.to(self.dtype))  # of what the activations are, not of the checkpoint

    def finish(self, folder: Path) -> None:
        """Raises ConfigError when a parameter has no value."""
        for layer in self.layers.values():
            layer.finish_loading()
        self.model.finish_loading()
        missing = [f"{path}.{name}" for path, layer in self.layers.items() for name in layer.missing()]
        if missing:
            raise ConfigError(f"{folder} lacks {len(missing)} weights, e.g. {', '.join(missing[:4])}")
        for layer in self.layers.values():
            self._pack(layer)
        if self.unexpected:
            logger.warning(
                "%d tensors of the checkpoint were not used, e.g. %s", len(self.unexpected), self.unexpected[0]
            )


def _is_tied(layer: Layer | None) -> bool:
    """Whether its weight is to be compared with the embeddings, or to be theirs."""
    return isinstance(layer, OutputHead) and bool(layer.tied_to)


def _renamed(model: Model, name: str) -> str:
    for pattern, replacement in model.renames:
        name = re.sub(pattern, replacement, name)
    return name


def _target(model: Model, name: str) -> tuple[Layer | None, int | None, str]:
    """(the layer that takes the tensor, as which part of it, under which name)."""
    path, _, leaf = name.rpartition(".")
    path, part = _merged(model, path)
    for candidate in (path, model.prefix + path):
        try:
            module = model.get_submodule(candidate)
        except AttributeError:
            continue
        if isinstance(module, Layer):
            return module, part, leaf
    return None, part, leaf


def _merged(model: Model, path: str) -> tuple[str, int | None]:
    """The module that holds the checkpoint's module ``path``, and as which part."""
    names = path.split(".")
    for count in (2, 1):
        entry = model.packed.get(".".join(names[-count:]))
        if entry is not None:
            return ".".join([*names[:-count], entry[0]]), entry[1]
    return path, None
