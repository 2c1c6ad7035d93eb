"""The images that people run: Segue's, TGI's, Google's, and the set-ups of older programs around TGI."""

from collections.abc import Mapping
from typing import Any

from segue.containers.spec import GOOGLE_IMAGES, ContainerSpec, default_name
from segue.core.errors import ConfigError

__all__ = ["PRESETS", "preset"]

_TGI = "ghcr.io/huggingface/text-generation-inference"
_GOOGLE = f"{GOOGLE_IMAGES}gcr.io/huggingface-text-generation-inference"
_PUBLISHED = {"host": None, "port": 8080}
_IPFS: dict[str, Any] = {
    **_PUBLISHED,
    "image": "huggingface/text-generation-inference:latest",
    "options_as": "env",
    "options": {"num_shard": 1, "max_input_length": 1024, "max_total_tokens": 2048},
    "secrets": (),
}

PRESETS: Mapping[str, Mapping[str, Any]] = {
    "segue": {"image": "segue:latest"},
    "ghcr": {**_PUBLISHED, "image": f"{_TGI}:3.3.5", "gpus": "all", "secrets": ()},
    "google-gpu": {
        **_PUBLISHED,
        "image": f"{_GOOGLE}-cu124.2-4.ubuntu2204.py311",
        "options_as": "env",
        "options": {"num_shard": 1, "max_input_length": 4000, "max_total_tokens": 4096},
        "gpus": "all",
        "secrets": ("HF_TOKEN",),
    },
    "google-tpu": {
        **_PUBLISHED,
        "image": f"{_GOOGLE}-tpu.0.2.3.py310",
        "options_as": "env",
        "shm_size": "16G",
        "ipc": "host",
        "privileged": True,
        "auto_remove": True,
        "secrets": ("HF_TOKEN",),
    },
    "ipfs": {**_IPFS, "options": {**_IPFS["options"], "trust_remote_code": True}, "gpus": ("0",)},
    "ipfs-cpu": {**_IPFS, "cpus": 2.0, "memory": "4g"},
    "dspy": {
        **_PUBLISHED,
        "image": f"{_TGI}:1.1.0",
        "options": {"num_shard": 1, "max_input_length": 4000, "max_total_tokens": 4096, "max_best_of": 100},
        "gpus": "all",
        "secrets": (),
    },
}
"""Fields of :class:`ContainerSpec` by name of the set-up. ``ipfs`` and ``dspy`` are those of ipfs_accelerate_py's
``hf_tgi`` and of DSPy's ``HFServerTGI``, down to the versions that they ran."""

_NAMED = {"segue": "segue", "ipfs": "tgi", "ipfs-cpu": "tgi"}


def preset(name: str, model_id: str | None = None, /, **changes: Any) -> ContainerSpec:
    """The spec of a set-up with ``changes``; ``options`` are added to its own, one of None takes that one away.

    Raises ConfigError for a name that is not in ``PRESETS``.
    """
    if name not in PRESETS:
        raise ConfigError(f"there is no preset '{name}': {', '.join(PRESETS)}")
    fields = dict(PRESETS[name])
    if name in _NAMED:
        fields["name"] = default_name(_NAMED[name], model_id)
    options = {**fields.get("options", {}), **changes.pop("options", {})}
    fields["options"] = {key: value for key, value in options.items() if value is not None}
    return ContainerSpec(model_id=model_id, **{**fields, **changes})
