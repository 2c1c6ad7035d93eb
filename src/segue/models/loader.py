"""From a folder to a model with weights: safetensors by memory map, ``.bin`` without running pickled code."""

import json
import logging
import pickle
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from segue.core.errors import ConfigError
from segue.layers.base import Layer
from segue.models.base import Model

__all__ = ["Progress", "load_weights", "weight_files"]

Progress = Callable[[int, int], None]
"""Told (bytes done, bytes in all) while weights load."""

logger = logging.getLogger(__name__)


def weight_files(folder: Path) -> list[Path]:
    """The checkpoint's weight files: safetensors where there are any, else PyTorch's.

    Raises:
        ConfigError: there are none, or an index names a file that is missing.
    """
    for stem, suffix in (("model", "safetensors"), ("pytorch_model", "bin")):
        index = folder / f"{stem}.{suffix}.index.json"
        if index.exists():
            return _indexed(index)
        if (single := folder / f"{stem}.{suffix}").exists():
            return [single]
    if loose := sorted(folder.glob("*.safetensors")):
        return loose
    raise ConfigError(f"{folder} holds no weights (neither *.safetensors nor pytorch_model*.bin)")


def _indexed(index: Path) -> list[Path]:
    names = sorted(set(json.loads(index.read_text("utf-8"))["weight_map"].values()))
    if any(Path(name).name != name for name in names):
        raise ConfigError(f"{index} names a file outside its folder")
    files = [index.parent / name for name in names]
    missing = [file.name for file in files if not file.exists()]
    if missing:
        raise ConfigError(f"{index.name} names files that are not there: {', '.join(missing)}")
    return files


def load_weights(
    model: Model, folder: Path, *, dtype: torch.dtype, device: torch.device, progress: Progress | None = None
) -> None:
    """Give every parameter of ``model`` its tensor from ``folder``, as ``dtype`` on ``device``.

    Raises:
        ConfigError: a tensor has the wrong shape, or parameters are missing.
    """
    files = weight_files(folder)
    total = sum(file.stat().st_size for file in files)
    done = 0
    modules = dict(model.named_modules())
    unexpected: list[str] = []
    for file in files:
        for name, tensor in _read(file):
            if not name.endswith(model.ignored):
                for target, value in model.convert(_renamed(model, name), tensor):
                    if not _assign(model, modules, target, value, dtype, device):
                        unexpected.append(target)
            done += tensor.nbytes
            if progress is not None:
                progress(done, total)
    for module in modules.values():
        if isinstance(module, Layer):
            module.finish_loading()
    model.finish_loading()
    missing = [name for name, parameter in model.named_parameters() if parameter.is_meta]
    if missing:
        raise ConfigError(f"{folder} lacks {len(missing)} weights, e.g. {', '.join(missing[:4])}")
    for module in modules.values():
        if isinstance(module, Layer):
            module.pack()
    if unexpected:
        logger.warning("%d tensors of the checkpoint were not used, e.g. %s", len(unexpected), unexpected[0])


def _read(file: Path) -> Iterator[tuple[str, Tensor]]:
    """The tensors of one file. Raises ConfigError when it is damaged, or holds pickled code."""
    try:
        if file.suffix == ".safetensors":
            with safe_open(file, framework="pt") as handle:
                for name in handle.keys():  # noqa: SIM118 - not a dict
                    yield name, handle.get_tensor(name)
        else:
            yield from _read_bin(file).items()
    except (SafetensorError, pickle.UnpicklingError, EOFError) as error:
        raise ConfigError(f"{file} cannot be read, is it damaged? {error}") from error


def _read_bin(file: Path) -> dict[str, Tensor]:
    try:
        return dict(torch.load(file, map_location="cpu", mmap=True, weights_only=True))
    except RuntimeError:  # the format before PyTorch 1.6 cannot be mapped
        return dict(torch.load(file, map_location="cpu", weights_only=True))


def _renamed(model: Model, name: str) -> str:
    for pattern, replacement in model.renames:
        name = re.sub(pattern, replacement, name)
    return name


def _merged(model: Model, path: str) -> tuple[str, int | None]:
    """The module that holds the checkpoint's module ``path``, and as which part."""
    names = path.split(".")
    for count in (2, 1):
        entry = model.packed.get(".".join(names[-count:]))
        if entry is not None:
            return ".".join([*names[:-count], entry[0]]), entry[1]
    return path, None


def _assign(
    model: Model, modules: dict[str, nn.Module], name: str, tensor: Tensor, dtype: torch.dtype, device: torch.device
) -> bool:
    """False when no module of the model takes this name."""
    path, _, leaf = name.rpartition(".")
    path, part = _merged(model, path)
    module = modules.get(path) or modules.get(model.prefix + path)
    if not isinstance(module, Layer) or not module.takes(leaf):
        return False
    if part is None:
        # A copy of its own: aligned memory, and the file's pages can go.
        tensor = tensor.to(device=device, dtype=dtype, copy=True)
    else:
        tensor = tensor.to(dtype=dtype) if device.type == "cpu" else tensor.to(device=device, dtype=dtype)
    module.load(leaf, tensor, part)
    return True
