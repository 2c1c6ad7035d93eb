"""How much memory is free, and how large the KV pool may be."""

import ctypes
import sys
from pathlib import Path

import torch

__all__ = ["available_bytes", "default_kv_cache_bytes", "keep_freed_memory", "return_freed_memory"]

CPU_DEFAULT_LIMIT = 2 * 1024**3
"""Without a setting the CPU pool takes at most this: memory that other programs on the machine may need."""
CPU_DEFAULT_SHARE = 0.25

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""glibc's numbers of what ``mallopt`` sets."""


def available_bytes(device: torch.device) -> int:
    """Free memory of the device; on CPU what the machine and the container's limit leave."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free
    return min(_machine_available(), _container_available())


def default_kv_cache_bytes(device: torch.device, memory_fraction: float) -> int:
    free = available_bytes(device)
    if device.type == "cuda":
        return int(free * memory_fraction)
    return min(int(free * CPU_DEFAULT_SHARE), CPU_DEFAULT_LIMIT)


def _machine_available() -> int:
    try:
        for line in Path("/proc/meminfo").read_text("ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass  # not Linux: assume a small machine
    return 4 * 1024**3


def _container_available() -> int:
    """What a cgroup v2 limit leaves; a very large number without one."""
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text("ascii").strip()
        used = int(Path("/sys/fs/cgroup/memory.current").read_text("ascii"))
    except (OSError, ValueError):
        return 2**62
    return 2**62 if limit == "max" else max(0, int(limit) - used)


def return_freed_memory() -> None:
    """While weights load: have glibc return every large buffer at once.

    By default it keeps what is freed between weights that stay; with a model of 1.1 GB that was 270 MB.
    """
    _mallopt(_MMAP_THRESHOLD, 1024**2)


def keep_freed_memory(limit_bytes: int = 256 * 1024**2) -> None:
    """Let glibc keep up to so much freed memory for the next step.

    By default it returns buffers of more than a few megabytes to the system at once, and every step pays for their page
    faults again: a chain of operators on such buffers took nine times as long. Other C libraries do not have the call.
    """
    _mallopt(_TRIM_THRESHOLD, limit_bytes)
    _mallopt(_MMAP_THRESHOLD, min(limit_bytes, 32 * 1024**2))  # glibc takes no more than 32 MiB


def _mallopt(parameter: int, value: int) -> None:
    """Nothing where the C library does not have it."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(parameter, value)
