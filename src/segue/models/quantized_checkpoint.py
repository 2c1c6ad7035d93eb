"""Writing a checkpoint whose linear layers have few bits, from one of floats: tensor by tensor, in files of 2 GB."""

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from segue.core.errors import ConfigError
from segue.layers.embedding import OutputHead
from segue.models.base import Model
from segue.models.config import HFConfig
from segue.models.loader import Progress, linear_weight
from segue.models.registry import find_family
from segue.models.weight_files import tensors_of, weight_files
from segue.quantization.convert import CompressedWeights
from segue.quantization.formats import quantization_config
from segue.quantization.methods import OnLoadMethod

__all__ = ["checkpoint_bytes", "quantizable_model", "quantize_checkpoint", "write_checkpoint"]

MAX_FILE_BYTES = 2 * 10**9
_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".h5", ".msgpack", ".onnx", ".gguf", ".index.json")


Replace = Callable[[str, Tensor], Mapping[str, Tensor]]
"""A checkpoint's tensor and its name → the tensors that take its place."""


def quantize_checkpoint(folder: Path, output: Path, method: OnLoadMethod, progress: Progress | None = None) -> None:
    """Write ``folder``'s model with rounded weights to ``output``, a new or empty folder, and all else it has.

    The files are safetensors in the layout of compressed-tensors.

    Raises:
        ConfigError: the model is quantized already, or of no family that is written here, or ``output`` is not empty.
    """
    model = quantizable_model(folder, output, method.name)
    weights = CompressedWeights()

    def replace(name: str, tensor: Tensor) -> Mapping[str, Tensor]:
        return _rounded(model, name, tensor, method, weights)

    write_checkpoint(folder, output, replace, lambda: weights.config(_tied_head(model), method.of_head), progress)


def quantizable_model(folder: Path, output: Path, method: str) -> Model:
    """``folder``'s model without weights, where it can be quantized and written to ``output``. Raises ConfigError."""
    config = HFConfig.from_folder(folder)
    if quantization_config(folder, config.values) is not None:
        raise ConfigError(f"{folder} is quantized already")
    family = find_family(config)
    if family is None:
        raise ConfigError(f"{method} quantization is not supported for AutoModel")
    weight_files(folder)
    if output.exists() and any(output.iterdir()):
        raise ConfigError(f"{output} is not empty")
    return family(config)


def write_checkpoint(
    folder: Path,
    output: Path,
    replace: Replace,
    quantization: Callable[[], dict[str, Any]],
    progress: Progress | None = None,
) -> None:
    """Copy ``folder`` to ``output`` with other weights.

    config.json, with ``quantization`` as its ``quantization_config``, comes last, so that what was interrupted is no
    model.
    """
    output.mkdir(parents=True, exist_ok=True)
    writer = _Files(output)
    total, done = checkpoint_bytes(folder), 0
    for file in weight_files(folder):
        for name, tensor in tensors_of(file):
            for new_name, new_tensor in replace(name, tensor).items():
                writer.add(new_name, new_tensor)
            done += tensor.nbytes
            if progress is not None:
                progress(done, total)
    writer.finish()
    for path in sorted(folder.iterdir()):
        if path.is_file() and path.name != "config.json" and not path.name.endswith(_WEIGHTS):
            shutil.copyfile(path, output / path.name)
    values = HFConfig.from_folder(folder).values
    text = json.dumps({**values, "quantization_config": quantization()}, indent=2)
    (output / "config.json").write_text(text + "\n", "utf-8")


def checkpoint_bytes(folder: Path) -> int:
    """Of the weights on disk."""
    return sum(file.stat().st_size for file in weight_files(folder))


def _rounded(
    model: Model, name: str, tensor: Tensor, method: OnLoadMethod, weights: CompressedWeights
) -> Mapping[str, Tensor]:
    layer = linear_weight(model, name)
    if layer is None or (isinstance(layer, OutputHead) and layer.tied_to):
        return {name: tensor}
    to = method.of_head if isinstance(layer, OutputHead) else method.of_layer(layer.weight.shape[1])
    return weights.add(name.removesuffix(".weight"), tensor.t() if layer.transposed else tensor, to)


def _tied_head(model: Model) -> str | None:
    for name, module in model.named_modules():
        if isinstance(module, OutputHead) and module.tied_to:
            return name
    return None


class _Files:
    """Safetensors files, each with its share of the tensors, and their index."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._waiting: dict[str, Tensor] = {}
        self._waiting_bytes = 0
        self._total_bytes = 0
        self._written: list[list[str]] = []

    def add(self, name: str, tensor: Tensor) -> None:
        if self._waiting and self._waiting_bytes + tensor.nbytes > MAX_FILE_BYTES:
            self._write()
        self._waiting[name] = tensor.contiguous()
        self._waiting_bytes += tensor.nbytes
        self._total_bytes += tensor.nbytes

    def finish(self) -> None:
        self._write()
        count = len(self._written)
        if count == 1:
            self._part(1).rename(self._folder / "model.safetensors")
            return
        weight_map: dict[str, str] = {}
        for number, names in enumerate(self._written, start=1):
            path = self._folder / f"model-{number:05}-of-{count:05}.safetensors"
            self._part(number).rename(path)
            weight_map |= dict.fromkeys(names, path.name)
        index = {"metadata": {"total_size": self._total_bytes}, "weight_map": weight_map}
        (self._folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n", "utf-8")

    def _write(self) -> None:
        self._written.append(list(self._waiting))
        part = self._part(len(self._written))
        save_file(self._waiting, part, metadata={"format": "pt"})
        part.chmod(0o644)  # safetensors leaves it to its owner alone
        self._waiting, self._waiting_bytes = {}, 0

    def _part(self, number: int) -> Path:
        return self._folder / f"part-{number}.tmp"
