"""Where models merged from an adapter and its base are kept: made once, found again by what they came from."""

import hashlib
import json
import logging
import tempfile
from pathlib import Path

from segue.core.config import ServeConfig
from segue.core.errors import ConfigError

__all__ = ["base_of", "is_adapter", "merged_folder", "parent_of"]

_ADAPTER_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
_WEIGHTS = (".safetensors", ".bin")

logger = logging.getLogger(__name__)


def is_adapter(folder: Path) -> bool:
    """An adapter, and not a whole model that one was left beside."""
    if not (folder / "adapter_config.json").is_file():
        return False
    has_weights = any(path.suffix in _WEIGHTS and path.name not in _ADAPTER_WEIGHTS for path in folder.iterdir())
    return not ((folder / "config.json").is_file() and has_weights)


def base_of(adapter: Path) -> tuple[str, str | None]:
    """(name, revision) of the base model. Raises ConfigError where the adapter does not name one."""
    config = _read(adapter / "adapter_config.json")
    name = config.get("base_model_name_or_path")
    if not isinstance(name, str) or not name:
        raise ConfigError(f"{adapter}/adapter_config.json does not name its base model (`base_model_name_or_path`)")
    revision = config.get("revision")
    return name, revision if isinstance(revision, str) else None


def parent_of(folder: Path, model_id: str) -> str | None:
    """The model that a Medusa or speculator checkpoint adds its heads to; None for any other."""
    if not (folder / "config.json").is_file():
        return None
    name = _read(folder / "config.json").get("base_model_name_or_path")
    return name if isinstance(name, str) and name and name != model_id else None


def merged_folder(config: ServeConfig, adapter: Path, base: Path) -> Path:
    """The merged model, made now if need be. Raises ConfigError when the two do not belong together."""
    from segue.launcher.weights_process import merge_weights

    target = _home(config) / _digest(adapter, base)
    if (target / "config.json").is_file():
        return target
    logger.info("Merging the adapter in %s into %s", adapter, base)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        made = Path(scratch) / "merged"
        merge_weights(adapter, base, made)
        try:
            made.rename(target)
        except OSError:  # another server, started at the same time, was first
            if not (target / "config.json").is_file():
                raise
    logger.info("The merged model is in %s", target)
    return target


def _home(config: ServeConfig) -> Path:
    """Beside the downloads, on the same volume."""
    if config.huggingface_hub_cache is not None:
        return Path(config.huggingface_hub_cache) / ".segue-merged"
    from huggingface_hub.constants import HF_HOME

    return Path(HF_HOME) / "segue-merged"


def _digest(adapter: Path, base: Path) -> str:
    digest = hashlib.sha256((adapter / "adapter_config.json").read_bytes())
    for folder in (adapter, base):
        for path in sorted(folder.iterdir()):
            if path.suffix in (*_WEIGHTS, ".json"):
                stat = path.stat()
                digest.update(f"{path}\0{stat.st_size}\0{stat.st_mtime_ns}\0".encode())
    return digest.hexdigest()[:32]


def _read(path: Path) -> dict[str, object]:
    try:
        values = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path} must hold a JSON object")
    return values
