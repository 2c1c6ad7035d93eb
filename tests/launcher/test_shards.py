"""TGI's number of shards, and what this version says to more than one."""

import logging

import pytest

from segue.core.config import ServeConfig
from segue.core.errors import ConfigError
from segue.launcher.shards import NotEnoughDevicesError, check_shards, find_num_shards

FOUR = {"CUDA_VISIBLE_DEVICES": "0,1,2,3"}


def find(environ: dict[str, str], num_gpus: int = 8, **options: object) -> int:
    config = ServeConfig(**options)  # type: ignore[arg-type]
    return find_num_shards(config, environ, lambda: num_gpus)


@pytest.mark.parametrize(
    ("options", "environ", "num_shards"),
    [
        ({}, {}, 1),
        ({}, FOUR, 4),
        ({"num_shard": 2}, FOUR, 2),
        ({"sharded": False}, FOUR, 1),
        ({"sharded": False, "num_shard": 3}, FOUR, 3),
        ({"sharded": True}, FOUR, 4),
        ({"sharded": True, "num_shard": 2}, {}, 2),
        ({}, {"NVIDIA_VISIBLE_DEVICES": "all"}, 8),
        ({}, {"NVIDIA_VISIBLE_DEVICES": "void"}, 8),
        ({}, {"NVIDIA_VISIBLE_DEVICES": "0,1"}, 2),
        ({}, FOUR | {"NVIDIA_VISIBLE_DEVICES": "all"}, 4),
        ({}, {"ZE_AFFINITY_MASK": "0,1,2"}, 3),
        ({}, {"CUDA_VISIBLE_DEVICES": ""}, 1),
    ],
)
def test_F2_how_many(options: dict[str, object], environ: dict[str, str], num_shards: int) -> None:
    assert find(environ, **options) == num_shards


@pytest.mark.parametrize(
    ("environ", "num_gpus", "message"),
    [
        ({"CUDA_VISIBLE_DEVICES": "0"}, 8, "`sharded` is true but only found 1 CUDA devices"),
        ({"NVIDIA_VISIBLE_DEVICES": "all"}, 0, "`sharded` is true but only found 0 CUDA devices"),
        ({}, 8, "nor CUDA_VISIBLE_DEVICES/NVIDIA_VISIBLE_DEVICES is set"),
    ],
)
def test_F2_sharded_on_one_device(environ: dict[str, str], num_gpus: int, message: str) -> None:
    with pytest.raises(NotEnoughDevicesError, match=message):
        find(environ, num_gpus, sharded=True)


@pytest.mark.parametrize(
    ("config", "environ"),
    [(ServeConfig(num_shard=2), {}), (ServeConfig(sharded=True), FOUR), (ServeConfig(sharded=True, num_shard=2), {})],
)
def test_F2_more_than_one_is_refused(config: ServeConfig, environ: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="shards need tensor parallelism, which is not in this version of Segue"):
        check_shards(config, environ)


def test_F2_devices_that_nobody_asked_for(caplog: pytest.LogCaptureFixture) -> None:
    """A container on a machine of four GPUs serves with one, and says so."""
    check_shards(ServeConfig(), FOUR)
    assert "4 devices are visible, one is used" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.INFO):
        check_shards(ServeConfig(device="cpu"), FOUR)
        check_shards(ServeConfig(), {})
        check_shards(ServeConfig(num_shard=1), FOUR)
    assert caplog.text == ""
