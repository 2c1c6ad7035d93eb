"""Packed weights on disk, so that the next start maps them instead of packing again.

One file a model: eight bytes with the length of a JSON header, the header, the packed layers, each at a multiple of 64
bytes. Its name is a hash of what the weights follow from: the checkpoint's files (name, size, time of change, and the
header of safetensors), config.json, how weights are rounded, the layers of the model and Segue's version. A file that
cannot be used is a miss, never an error. The folder is kept below a share of the disk: the files used longest ago go.
"""

import contextlib
import hashlib
import json
import logging
import mmap
import os
import shutil
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from segue._version import __version__

if TYPE_CHECKING:
    from segue.kernels.cpu.linear import PackedLinear

__all__ = ["SMALLEST_BYTES", "WeightCache", "cache_key"]

SMALLEST_BYTES = 64 * 2**20
"""Less is packed sooner than anyone notices."""
DISK_SHARE = 0.1
"""Of the disk's free space and of what the folder has already: the most that the folder may have."""
ALIGNMENT = 64

logger = logging.getLogger(__name__)


def cache_key(files: Iterable[Path], facts: Mapping[str, object]) -> str:
    """``facts``: all else that packed weights follow from, as JSON takes it. Raises OSError."""
    digest = hashlib.sha256(json.dumps({**facts, "version": __version__}, sort_keys=True, default=str).encode())
    for file in files:
        status = file.stat()
        digest.update(f"{file.name} {status.st_size} {status.st_mtime_ns}".encode())
        if file.suffix == ".safetensors":
            with file.open("rb") as handle:
                length = min(int.from_bytes(handle.read(8), "little"), status.st_size)
                digest.update(handle.read(length))
    return digest.hexdigest()[:40]


@dataclass(frozen=True, slots=True)
class WeightCache:
    """One model's place in the folder."""

    folder: Path
    key: str

    @property
    def path(self) -> Path:
        return self.folder / f"{self.key}.weights"

    def load(self) -> "dict[str, PackedLinear]":
        """Packed layers by name, in the mapped file's memory; empty where there is no such file, or it is damaged."""
        from segue.kernels.cpu.linear import PackedLinear

        try:
            with self.path.open("rb") as handle:
                mapped = memoryview(mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ))
                header, start = _header(mapped)
                layers = {
                    name: PackedLinear.from_buffer(mapped[start + offset : start + offset + size])
                    for name, (offset, size) in header.items()
                }
            os.utime(self.path)
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, TypeError, AttributeError) as error:
            logger.warning("The cached weights %s cannot be used, and are made again: %s", self.path.name, error)
            with contextlib.suppress(OSError):
                self.path.unlink()
            return {}
        return layers

    def store(self, layers: "Mapping[str, PackedLinear]") -> threading.Thread | None:
        """Write the file beside the caller's work; None where it is not worth it or there is no room.

        A failure is logged: the model runs without.
        """
        size = sum(layer.num_bytes for layer in layers.values())
        if size < SMALLEST_BYTES:
            return None
        thread = threading.Thread(target=self._store, args=(dict(layers), size), name="weight-cache", daemon=True)
        thread.start()
        return thread

    def _store(self, layers: "Mapping[str, PackedLinear]", size: int) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if not self._make_room(size):
                logger.info("No room on the disk to cache %d MB of packed weights", size // 10**6)
                return
            unfinished = self.path.with_suffix(f".{os.getpid()}.tmp")
            try:
                with unfinished.open("wb") as handle:
                    _write(handle, layers)
                unfinished.replace(self.path)
            finally:
                unfinished.unlink(missing_ok=True)
        except OSError as error:
            logger.warning("Packed weights are not cached: %s", error)

    def _make_room(self, size: int) -> bool:
        """Whether ``size`` bytes may be added, once the files used longest ago are gone."""
        files = sorted((status.st_mtime, status.st_size, path) for path, status in _files(self.folder))
        total = sum(each for _, each, _ in files)
        allowed = DISK_SHARE * (shutil.disk_usage(self.folder).free + total)
        if size > allowed:
            return False
        for _, each, path in files:
            if total + size <= allowed:
                break
            path.unlink(missing_ok=True)
            total -= each
        return True


def _files(folder: Path) -> Iterable[tuple[Path, os.stat_result]]:
    """Finished ones, and what a process that died left."""
    for path in folder.iterdir():
        if path.suffix in (".weights", ".tmp"):
            with contextlib.suppress(FileNotFoundError):
                yield path, path.stat()


def _header(mapped: memoryview) -> tuple[dict[str, tuple[int, int]], int]:
    """(offset, size) of each layer, from the returned place on. Raises ValueError."""
    length = int.from_bytes(mapped[:8], "little")
    header = json.loads(bytes(mapped[8 : 8 + length]))
    start = -(-(8 + length) // ALIGNMENT) * ALIGNMENT
    end = start + max((offset + size for offset, size in header.values()), default=0)
    if len(mapped) < end:
        raise ValueError(f"it has {len(mapped)} bytes, its header says {end}")
    return header, start


def _write(handle: BinaryIO, layers: "Mapping[str, PackedLinear]") -> None:
    header, offset = {}, 0
    for name, layer in layers.items():
        header[name] = (offset, layer.num_bytes)
        offset += -(-layer.num_bytes // ALIGNMENT) * ALIGNMENT
    text = json.dumps(header).encode()
    handle.write(len(text).to_bytes(8, "little") + text)
    handle.write(bytes(-handle.tell() % ALIGNMENT))
    for layer in layers.values():
        handle.write(memoryview(layer))
        handle.write(bytes(-layer.num_bytes % ALIGNMENT))
