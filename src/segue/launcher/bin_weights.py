"""PyTorch's ``.bin`` weights into safetensors, file by file, as TGI's download step does. Imports torch."""

import json
import logging
import os
import pickle
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from segue.core.errors import ConfigError

__all__ = ["Progress", "convert_folder", "read_bin", "tied_names", "write_safetensors"]

Progress = Callable[[int, int], None]
"""Told (bytes done, bytes in all)."""

logger = logging.getLogger(__name__)


def convert_folder(folder: Path, progress: Progress | None = None) -> list[Path]:
    """Write ``model*.safetensors`` beside ``pytorch_model*.bin``, and an index where there is one.

    Of tensors that share memory one stays: the one that the model's class reads the others from.
    Raises ConfigError for a file that is damaged or holds pickled code; nothing is left of what was begun then.
    """
    sources = sorted(folder.glob("pytorch_model*.bin"))
    if not sources:
        raise ConfigError(f"{folder} holds no pytorch_model*.bin")
    config = _config(folder)
    tied = tied_names(config)
    is_tied = config.get("tie_word_embeddings") is not False
    total, done = sum(path.stat().st_size for path in sources), 0
    weight_map: dict[str, str] = {}
    written: list[Path] = []
    try:
        for source in sources:
            target = folder / (source.stem.replace("pytorch_model", "model") + ".safetensors")
            tensors = read_bin(source)
            tensors = _unshared(tensors, tied) if is_tied else {n: t.contiguous().clone() for n, t in tensors.items()}
            written.append(target)
            write_safetensors(tensors, target)
            _compare(tensors, target)
            weight_map |= dict.fromkeys(tensors, target.name)
            done += source.stat().st_size
            if progress is not None:
                progress(done, total)
        if len(sources) > 1:
            index = folder / "model.safetensors.index.json"
            written.append(index)
            index.write_text(json.dumps({"metadata": {}, "weight_map": dict(sorted(weight_map.items()))}, indent=2))
    except BaseException:
        for path in written:
            path.unlink(missing_ok=True)
        raise
    return [path for path in written if path.suffix == ".safetensors"]


def read_bin(file: Path) -> dict[str, Tensor]:
    """Raises ConfigError for a file that is damaged, or that holds pickled code."""
    try:
        try:
            state = torch.load(file, map_location="cpu", mmap=True, weights_only=True)
        except RuntimeError:  # the format before PyTorch 1.6 cannot be mapped
            state = torch.load(file, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, EOFError, RuntimeError) as error:
        raise ConfigError(f"{file} cannot be read, is it damaged? {error}") from error
    state = state.get("state_dict", state)
    return {name: value for name, value in state.items() if isinstance(value, Tensor)}


def write_safetensors(tensors: dict[str, Tensor], target: Path) -> None:
    """Whole or not at all."""
    partial = target.with_name(f".{target.name}.partial")
    try:
        save_file(tensors, partial, metadata={"format": "pt"})
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)


def _config(folder: Path) -> dict[str, Any]:
    try:
        config: dict[str, Any] = json.loads((folder / "config.json").read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return config


def tied_names(config: Mapping[str, Any]) -> frozenset[str]:
    """Names that the model's class in transformers takes from other tensors; empty for a class of its own."""
    import transformers

    architecture = next(iter(config.get("architectures") or ()), "")
    return frozenset(getattr(getattr(transformers, architecture, None), "_tied_weights_keys", None) or ())


def _unshared(tensors: dict[str, Tensor], tied: Iterable[str]) -> dict[str, Tensor]:
    """Each tensor once, with memory of its own; of equal ones the first by name, before all those that are not tied."""
    tied = frozenset(tied)
    kept: dict[tuple[object, ...], str] = {}
    for name in sorted(tensors, key=lambda name: (name in tied, name)):
        tensor = tensors[name]
        place: tuple[object, ...] = (
            tensor.untyped_storage().data_ptr(),
            tensor.storage_offset(),
            tensor.shape,
            tensor.stride(),
        )
        if tensor.numel() == 0:
            place = (name,)
        if place in kept:
            logger.info("%s is %s: stored once", name, kept[place])
        kept.setdefault(place, name)
    return {name: tensors[name].clone(memory_format=torch.contiguous_format) for name in kept.values()}


def _compare(tensors: dict[str, Tensor], target: Path) -> None:
    with safe_open(target, framework="pt") as handle:
        for name, tensor in tensors.items():
            if not torch.equal(handle.get_tensor(name), tensor):
                raise ConfigError(f"{target}: {name} is not what was written")
