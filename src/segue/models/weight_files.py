"""A checkpoint's files and the tensors in them: safetensors by memory map, ``.bin`` without running pickled code."""

import json
import pickle
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from segue.core.errors import ConfigError

__all__ = ["tensor_names", "tensors_of", "weight_files"]


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


def tensor_names(file: Path) -> list[str]:
    """Raises ConfigError as ``tensors_of`` does."""
    try:
        if file.suffix == ".safetensors":
            with safe_open(file, framework="pt") as handle:
                return list(handle.keys())
        return list(_read_bin(file))
    except (SafetensorError, pickle.UnpicklingError, EOFError) as error:
        raise _damaged(file, error) from error


def tensors_of(file: Path) -> Iterator[tuple[str, Tensor]]:
    """(name, tensor) one by one. Raises ConfigError when the file is damaged, or holds pickled code."""
    try:
        if file.suffix == ".safetensors":
            with safe_open(file, framework="pt") as handle:
                for name in handle.keys():  # noqa: SIM118 - not a dict
                    yield name, handle.get_tensor(name)
        else:
            yield from _read_bin(file).items()
    except (SafetensorError, pickle.UnpicklingError, EOFError) as error:
        raise _damaged(file, error) from error


def _damaged(file: Path, error: Exception) -> ConfigError:
    return ConfigError(f"{file} cannot be read, is it damaged? {error}")


def _read_bin(file: Path) -> dict[str, Tensor]:
    try:
        return dict(torch.load(file, map_location="cpu", mmap=True, weights_only=True))
    except RuntimeError:  # the format before PyTorch 1.6 cannot be mapped
        return dict(torch.load(file, map_location="cpu", weights_only=True))
