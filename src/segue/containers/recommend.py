"""The recommender for models given by name: config.json is found in a folder, in the Hub's cache, or on the Hub."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from segue.core.config import environment
from segue.core.errors import ConfigError
from segue.core.memory_plan import ModelDescription
from segue.core.recommend import Mode, Recommendation
from segue.core.recommend import recommend as recommend_described

__all__ = ["describe", "recommend"]


def recommend(
    model: str | Path | Mapping[str, Any],
    gpu_memory: float | None = None,
    num_gpus: int | None = None,
    provider: str | None = None,
    mode: Mode = "compat",
    *,
    offline: bool = True,
) -> Recommendation:
    """As ``core.recommend.recommend``, for a folder, a name on the Hub, or a config.json as a mapping."""
    if isinstance(model, Mapping):
        description = ModelDescription(model_id=str(model.get("_name_or_path") or "model"), config=model)
    else:
        description = describe(str(model), offline=offline)
    return recommend_described(description, gpu_memory=gpu_memory, num_gpus=num_gpus, provider=provider, mode=mode)


def describe(model_id: str, *, offline: bool = True) -> ModelDescription:
    """What the small files of a model say. ``offline``: look into folders and the Hub's cache only.

    Raises ConfigError if there is no such model, or no whole config.json.
    """
    config = _read(model_id, "config.json", offline)
    if config is None:
        where = "neither a folder nor in the Hub's cache" if offline else "neither a folder nor a model on the Hub"
        raise ConfigError(f"'{model_id}' is {where}: its config.json is needed")
    tokenizer = _read(model_id, "tokenizer_config.json", offline) or {}
    length = tokenizer.get("model_max_length")
    return ModelDescription(
        model_id=model_id,
        config=config,
        model_max_length=int(length) if isinstance(length, int | float) and length < 10**9 else None,
        num_parameters=_stored_parameters(Path(model_id)) if Path(model_id).is_dir() else None,
    )


def _read(model_id: str, name: str, offline: bool) -> dict[str, Any] | None:
    folder = Path(model_id).expanduser()
    path = folder / name if folder.is_dir() else _from_hub(model_id, name, offline)
    if path is None or not path.is_file():
        return None
    try:
        content = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise ConfigError(f"{path} is not valid JSON: {error}") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{path} must hold a JSON object")
    return content


def _from_hub(model_id: str, name: str, offline: bool) -> Path | None:
    if model_id.count("/") > 1 or model_id.startswith(("/", ".", "~")):
        return None
    try:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, LocalEntryNotFoundError
    except ImportError:
        raise ConfigError(f"'{model_id}' is not a folder; to look on the Hub: pip install huggingface_hub") from None
    variables = environment()
    cache = variables.get("HUGGINGFACE_HUB_CACHE") or None
    try:
        return Path(hf_hub_download(model_id, name, local_files_only=offline, cache_dir=cache))
    except (EntryNotFoundError, LocalEntryNotFoundError):
        return None
    except (HfHubHTTPError, OSError) as error:
        raise ConfigError(f"'{model_id}' cannot be looked up: {error}") from error


def _stored_parameters(folder: Path) -> int | None:
    """Of the safetensors files, from their headers; None where there are none, or where they hold packed integers.

    https://github.com/huggingface/safetensors#format: eight bytes with the length of a JSON header.
    """
    total = 0
    for path in sorted(folder.glob("model*.safetensors")):
        with path.open("rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        for name, tensor in header.items():
            if name == "__metadata__":
                continue
            if tensor["dtype"][0] in "IU":  # GPTQ and AWQ pack eight weights into one
                return None
            total += math.prod(tensor["shape"])
    return total or None
