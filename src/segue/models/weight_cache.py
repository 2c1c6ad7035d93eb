"""Packed weights on disk, so that the next start maps them instead of packing again.

One file a model: eight bytes with the length of a JSON header, the header, the packed layers, each at a multiple of 64
bytes. Its name is a hash of what the weights follow from: the bytes of the checkpoint's files, config.json, how weights
are rounded, the layers of the model and Segue's version.

Nobody waits for that hash. A small file beside, whose name is a hash of what can be had at once (names, sizes, times of
change, headers and samples of the checkpoint's files), says which weights are meant; both are written while the model
serves, by a thread that leaves the processor to all others. A checkpoint that was only moved or copied is packed once
more and then finds its weights there. A file that cannot be used is a miss, never an error. The folder is kept below a
share of the disk: the files used longest ago go.
"""

import contextlib
import hashlib
import json
import logging
import mmap
import os
import shutil
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from segue._version import __version__

if TYPE_CHECKING:
    from segue.kernels.cpu.linear import PackedLinear

__all__ = ["SMALLEST_BYTES", "WeightCache", "fingerprint"]

SMALLEST_BYTES = 64 * 2**20
"""Less is packed sooner than anyone notices."""
DISK_SHARE = 0.1
"""Of the disk's free space and of what the folder has already: the most that the folder may have."""
ALIGNMENT = 64

HASHED_BYTES = 8 * 2**20
"""At a time; the interpreter's lock is free meanwhile."""
NUM_SAMPLES = 64
SAMPLE_BYTES = 4096
UNFINISHED_S = 600.0
"""Nobody writes any more to a file that did not grow for so long."""
_POPULATE_READ = 22
"""Linux 5.14: read pages and map them."""

logger = logging.getLogger(__name__)


class WeightCache:
    """One model's place in the folder."""

    def __init__(self, folder: Path, files: Iterable[Path], facts: Mapping[str, object]) -> None:
        """To be made before the checkpoint's ``files`` are read. ``facts``: all else that packed weights follow from,
        as JSON takes it. Raises OSError."""
        self._folder = folder
        self._files = tuple(files)
        self._facts = json.dumps({**facts, "version": __version__}, sort_keys=True, default=str)
        self._fingerprint = fingerprint(self._files)
        self._name_file = folder / f"{_key(self._facts, self._fingerprint)}.name"

    def load(self) -> "dict[str, PackedLinear]":
        """Packed layers by name, in the mapped file's memory; empty where there is no such file, or it is damaged."""
        from segue.kernels.cpu.linear import PackedLinear

        path = None
        try:
            path = self._weights(self._name_file.read_text("ascii").strip())
            with path.open("rb") as handle:
                pages = mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ)
            _read_in(pages)
            mapped = memoryview(pages)
            header, start = _header(mapped)
            layers = {
                name: PackedLinear.from_buffer(mapped[start + offset : start + offset + size])
                for name, (offset, size) in header.items()
            }
            with contextlib.suppress(OSError):  # a folder that may only be read
                os.utime(path)
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, TypeError, AttributeError) as error:
            logger.warning("Cached weights cannot be used, and are made again: %s", error)
            if path is not None:
                with contextlib.suppress(OSError):
                    path.unlink()
            return {}
        return layers

    def store(self, layers: "Mapping[str, PackedLinear]") -> threading.Thread | None:
        """Write the file beside the caller's work; None where it is not worth it.

        A failure is logged: the model runs without.
        """
        if sum(layer.num_bytes for layer in layers.values()) < SMALLEST_BYTES:
            return None
        thread = threading.Thread(target=self._store, args=(dict(layers),), name="weight-cache", daemon=True)
        thread.start()
        return thread

    def _store(self, layers: "Mapping[str, PackedLinear]") -> None:
        _let_others_go_first()
        try:
            key = _key(self._facts, *(_content(file) for file in self._files))
            if fingerprint(self._files) != self._fingerprint:
                logger.warning("The checkpoint changed while it was loaded: packed weights are not cached")
                return
            self._folder.mkdir(parents=True, exist_ok=True)
            path = self._weights(key)
            if path.exists():
                os.utime(path)
            elif not self._write(path, layers):
                return
            with _finished(self._name_file) as handle:
                handle.write(key.encode("ascii"))
        except OSError as error:
            logger.warning("Packed weights are not cached: %s", error)

    def _weights(self, key: str) -> Path:
        return self._folder / f"{Path(key).name}.weights"

    def _write(self, path: Path, layers: "Mapping[str, PackedLinear]") -> bool:
        size = sum(layer.num_bytes for layer in layers.values())
        if not self._make_room(size):
            logger.info("No room on the disk to cache %d MB of packed weights", size // 10**6)
            return False
        with _finished(path) as handle:
            _write(handle, layers)
        return True

    def _make_room(self, size: int) -> bool:
        """Whether ``size`` bytes may be added, once what nobody uses and the files used longest ago are gone."""
        for path, status in _files(self._folder, ".tmp"):
            if time.time() - status.st_mtime > UNFINISHED_S:  # of a process that was ended
                path.unlink(missing_ok=True)
        for path, _ in _files(self._folder, ".name"):
            if not self._weights(path.read_text("ascii").strip()).exists():
                path.unlink(missing_ok=True)
        files = sorted((status.st_mtime, status.st_size, path) for path, status in _files(self._folder, ".weights"))
        total = sum(each for _, each, _ in files)
        allowed = DISK_SHARE * (shutil.disk_usage(self._folder).free + total)
        if size > allowed:
            return False
        for _, each, path in files:
            if total + size <= allowed:
                break
            path.unlink(missing_ok=True)
            total -= each
        return True


def fingerprint(files: Iterable[Path]) -> str:
    """Of what tells other checkpoints from these at a glance. Raises OSError."""
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb", buffering=0) as handle:
            status = os.fstat(handle.fileno())
            digest.update(f"{file.name} {status.st_size} {status.st_mtime_ns} ".encode())
            start = 0
            if file.suffix == ".safetensors":
                start = min(8 + int.from_bytes(handle.read(8), "little"), status.st_size)
                handle.seek(0)
                digest.update(handle.read(start))
            for i in range(NUM_SAMPLES):
                handle.seek(start + i * (status.st_size - start) // NUM_SAMPLES)
                digest.update(handle.read(SAMPLE_BYTES))
    return digest.hexdigest()


def _content(file: Path) -> str:
    digest = hashlib.sha256()
    buffer = bytearray(HASHED_BYTES)
    view = memoryview(buffer)
    with file.open("rb", buffering=0) as handle:
        while count := handle.readinto(buffer):
            digest.update(view[:count])
    return digest.hexdigest()


def _key(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:40]


def _let_others_go_first() -> None:
    """Give this thread the least share of the processors."""
    if sys.platform == "linux":  # where a thread has a priority of its own
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 19)


@contextlib.contextmanager
def _finished(path: Path) -> Iterator[BinaryIO]:
    """A file that appears at ``path`` with all of its bytes on the disk, or not at all."""
    unfinished = path.with_suffix(f".{os.getpid()}.tmp")
    try:
        with unfinished.open("wb", buffering=0) as handle:
            yield handle
            os.fsync(handle.fileno())
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def _read_in(pages: mmap.mmap) -> None:
    """Have the disk read all of it at once, then map what came: no step finds a page missing."""
    if sys.platform != "linux":
        return
    pages.madvise(mmap.MADV_WILLNEED)
    for start in range(0, len(pages), 64 * 2**20):
        try:
            pages.madvise(_POPULATE_READ, start, min(64 * 2**20, len(pages) - start))
        except OSError:  # an older kernel: pages come as they are touched
            return


def _files(folder: Path, suffix: str) -> Iterable[tuple[Path, os.stat_result]]:
    for path in folder.iterdir():
        if path.suffix == suffix:
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
    _write_all(handle, len(text).to_bytes(8, "little") + text + bytes(-(8 + len(text)) % ALIGNMENT))
    for layer in layers.values():
        _write_all(handle, memoryview(layer))
        _write_all(handle, bytes(-layer.num_bytes % ALIGNMENT))


def _write_all(handle: BinaryIO, data: bytes | memoryview) -> None:
    """One write takes at most 2 GiB."""
    rest = memoryview(data)
    while rest:
        rest = rest[handle.write(rest) :]
