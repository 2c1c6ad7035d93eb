"""A checkpoint's files and the tensors in them: safetensors by memory map, ``.bin`` without running pickled code."""

import contextlib
import json
import mmap
import os
import pickle
from collections.abc import Callable, Iterator
from io import FileIO
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from segue.core.errors import ConfigError

_DTYPES = {
    "BF16": torch.bfloat16,
    "F16": torch.float16,
    "F32": torch.float32,
    "F64": torch.float64,
    "I16": torch.int16,
    "I32": torch.int32,
    "I64": torch.int64,
    "I8": torch.int8,
    "U8": torch.uint8,
}

__all__ = ["copied", "tensor_names", "tensors_of", "weight_files"]

HUGE_PAGE_BYTES = 2 * 2**20


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


def tensors_of(file: Path, is_wanted: Callable[[str], bool] = lambda name: True) -> Iterator[tuple[str, Tensor]]:
    """(name, tensor) one by one, of those whose names are wanted. Tensors of safetensors are the file's pages, mapped.

    Raises ConfigError when the file is damaged, or holds pickled code.
    """
    try:
        if file.suffix == ".safetensors":
            yield from _read_safetensors(file, is_wanted)
        else:
            yield from ((name, tensor) for name, tensor in _read_bin(file).items() if is_wanted(name))
    except (SafetensorError, pickle.UnpicklingError, EOFError) as error:
        raise _damaged(file, error) from error


def _read_safetensors(file: Path, is_wanted: Callable[[str], bool]) -> Iterator[tuple[str, Tensor]]:
    """Tensors in the order of the file, each in a map of its own: a map of the whole file would keep all of its pages
    until the last tensor is given up."""
    with safe_open(file, framework="pt") as checked, file.open("rb", buffering=0) as handle:
        length = int.from_bytes(handle.read(8), "little")
        header = json.loads(handle.read(length))
        entries = [(name, header[name]) for name in checked.keys() if is_wanted(name)]  # noqa: SIM118 - not a dict
        entries.sort(key=lambda item: item[1]["data_offsets"])
        for name, entry in entries:
            dtype = _DTYPES.get(entry["dtype"])
            start, stop = entry["data_offsets"]
            _ask_for(handle, 8 + length + start, 8 + length + stop)
            if dtype is None or start == stop:
                yield name, checked.get_tensor(name)
            else:
                yield name, _mapped(handle, 8 + length + start, stop - start, dtype).view(entry["shape"])


def _ask_for(handle: FileIO, start: int, stop: int) -> None:
    """Have the disk read a part of the file that is wanted next, in requests larger than those of a page fault.

    No more than the next: the call waits for places in the disk's queue. With 8 to 128 MB ahead, loads from a cold page
    cache took 1.2 to 2 times as long.
    """
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(handle.fileno(), start, stop - start, os.POSIX_FADV_WILLNEED)


def _mapped(handle: FileIO, start: int, size: int, dtype: torch.dtype) -> Tensor:
    """Its memory is the file's until somebody writes to it. Raises EOFError."""
    before = start % mmap.ALLOCATIONGRANULARITY
    try:
        pages = mmap.mmap(handle.fileno(), before + size, access=mmap.ACCESS_COPY, offset=start - before)
    except ValueError as error:
        raise EOFError("it is shorter than its header says") from error
    data = torch.frombuffer(pages, dtype=torch.uint8, count=size, offset=before)
    if data.data_ptr() % dtype.itemsize:
        data = data.clone()
    return data.view(dtype)


def copied(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """A copy in memory of its own; of huge pages where it is large, which the system gives several times as fast."""
    size = tensor.numel() * dtype.itemsize
    if size < HUGE_PAGE_BYTES or not hasattr(mmap, "MADV_HUGEPAGE"):
        return tensor.to(device="cpu", dtype=dtype, copy=True)
    pages = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with contextlib.suppress(OSError):  # a kernel without them
        pages.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(pages, dtype=dtype).view(tensor.shape).copy_(tensor)


def _damaged(file: Path, error: Exception) -> ConfigError:
    return ConfigError(f"{file} cannot be read, is it damaged? {error}")


def _read_bin(file: Path) -> dict[str, Tensor]:
    try:
        return dict(torch.load(file, map_location="cpu", mmap=True, weights_only=True))
    except RuntimeError:  # the format before PyTorch 1.6 cannot be mapped
        return dict(torch.load(file, map_location="cpu", weights_only=True))
