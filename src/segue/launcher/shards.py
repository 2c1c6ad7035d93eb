"""How many shards TGI would start, by its rules (spec 6.2); this version runs one.

Tensor parallelism comes with a later issue. Until then asking for more than one shard is refused, and where TGI would
take all the GPUs that it finds, one is used and a warning says so.
"""

import logging
import shutil
import subprocess
from collections.abc import Callable, Mapping

from segue.core.config import ServeConfig
from segue.core.errors import ConfigError

__all__ = ["NotEnoughDevicesError", "check_shards", "count_visible_devices", "find_num_shards"]

logger = logging.getLogger(__name__)


class NotEnoughDevicesError(ConfigError):
    """`--sharded true` on a machine with one device; TGI's ``NotEnoughCUDADevices``."""


def check_shards(config: ServeConfig, environ: Mapping[str, str]) -> None:
    """Raises ConfigError where several shards are asked for, or what is asked for contradicts itself."""
    num_shards = find_num_shards(config, environ)
    if num_shards <= 1:
        return
    if config.sharded or config.num_shard is not None:
        raise ConfigError(
            f"{num_shards} shards need tensor parallelism, which is not in this version of Segue: a later issue adds "
            "it. Leave `--sharded` and `--num-shard` out to serve with one device."
        )
    if config.device != "cpu":
        logger.warning("%d devices are visible, one is used: tensor parallelism comes with a later issue", num_shards)


def find_num_shards(
    config: ServeConfig, environ: Mapping[str, str], count_gpus: Callable[[], int] | None = None
) -> int:
    """TGI's number of shards. ``count_gpus`` tells how many GPUs the driver has (default: asks nvidia-smi).

    Raises:
        NotEnoughDevicesError: ``sharded`` is true and there is one device, or none.
        ConfigError: ``num_shard`` is too small.
    """
    if config.num_shard is not None:
        return config.num_shard
    if config.sharded is False:
        return 1
    num_devices = count_visible_devices(environ, count_gpus or _count_gpus)
    if config.sharded:
        if num_devices is None:
            raise NotEnoughDevicesError(
                "`sharded` is true, but neither `--num-shard` nor CUDA_VISIBLE_DEVICES/NVIDIA_VISIBLE_DEVICES is set"
            )
        if num_devices <= 1:
            raise NotEnoughDevicesError(f"`sharded` is true but only found {num_devices} CUDA devices")
    return 1 if num_devices is None else num_devices


def count_visible_devices(environ: Mapping[str, str], count_gpus: Callable[[], int]) -> int | None:
    """Devices that the variables name; None where none of them is set."""
    for name in ("CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES", "ZE_AFFINITY_MASK"):
        value = environ.get(name)
        if not value:
            continue
        if name == "NVIDIA_VISIBLE_DEVICES" and value.strip() in ("all", "void"):
            return count_gpus()
        return len(value.split(","))
    return None


def _count_gpus() -> int:
    path = shutil.which("nvidia-smi")
    if path is None:
        return 0
    result = subprocess.run([path, "--list-gpus"], capture_output=True, text=True, timeout=30)  # noqa: S603
    return len(result.stdout.splitlines()) if result.returncode == 0 else 0
