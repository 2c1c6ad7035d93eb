"""Which format a checkpoint is quantized in, and whether that agrees with ``--quantize``."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from segue.core.errors import ConfigError
from segue.kernels.rounding import Rounding
from segue.quantization.base import CheckpointFormat
from segue.quantization.methods import METHODS, OnLoadMethod, method_named

__all__ = ["FORMATS", "Quantization", "find_quantization", "quantization_config"]

FORMATS: dict[str, tuple[str, str]] = {
    "awq": ("awq", "AWQ"),
    "bitsandbytes": ("bitsandbytes", "BitsAndBytes"),
    "compressed-tensors": ("compressed_tensors", "CompressedTensors"),
    "gptq": ("gptq", "GPTQ"),
}
"""``quant_method`` → (module of this package, class)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantization:
    """How a checkpoint's weights come to have few bits: they are stored so, or are rounded when they load."""

    name: str
    """What ``--quantize`` or the checkpoint calls it."""
    stored: CheckpointFormat | None = None
    on_load: OnLoadMethod | None = None

    @property
    def head_rounding(self) -> Rounding | None:
        """For an output head that comes as floats; None: it stays so."""
        if self.on_load is not None:
            return self.on_load.of_head
        return None if self.stored is None else self.stored.head_rounding

    def rounding(self, in_features: int) -> Rounding | None:
        """For another layer's weight that comes as floats; None: it stays so."""
        return None if self.on_load is None else self.on_load.of_layer(in_features)


def find_quantization(
    folder: Path, config: Mapping[str, Any], asked: str | None, *, int8_activations: bool | None = None
) -> Quantization | None:
    """``config``: of config.json; ``asked``: ``--quantize``. None: the weights stay as they are.

    Raises:
        ConfigError: the format cannot be read, or is not what was asked for.
    """
    found = quantization_config(folder, config)
    if found is None:
        if asked is None:
            if int8_activations is not None:
                raise ConfigError("`--int8-activations` is for quantized weights; add `--quantize int8` or another")
            return None
        if asked not in METHODS:
            raise ConfigError(
                f"`--quantize {asked}` needs a checkpoint with such weights, and this one has none. To round its "
                f"weights when it loads use one of {', '.join(METHODS)}"
            )
        return Quantization(name=asked, on_load=method_named(asked, int8_activations=int8_activations))
    name = _method_of(found)
    if name not in FORMATS:
        raise ConfigError(f"Unknown quantization method {name!r} in the checkpoint; known: {', '.join(FORMATS)}")
    if asked is not None and asked != name and not (name == "bitsandbytes" and asked.startswith(name)):
        raise ConfigError(f"`--quantize {asked}`, but the checkpoint is quantized by {name!r}; leave the option out")
    module, class_name = FORMATS[name]
    format_class = getattr(import_module(f"segue.quantization.{module}"), class_name)
    read: Callable[[Mapping[str, Any], bool | None], CheckpointFormat] = format_class.from_config
    return Quantization(name=name, stored=read(found, int8_activations))


def quantization_config(folder: Path, config: Mapping[str, Any]) -> dict[str, Any] | None:
    """What the checkpoint says of its quantization: in config.json, or in the files of AutoGPTQ and AutoAWQ."""
    text = config.get("text_config")
    for values in (config, text if isinstance(text, Mapping) else {}):
        for key in ("quantization_config", "compression_config"):
            if isinstance(found := values.get(key), Mapping) and found:
                return dict(found)
    for name, method in (("quantize_config.json", "gptq"), ("quant_config.json", "awq")):
        if (path := folder / name).exists():
            return {"quant_method": method, **json.loads(path.read_text("utf-8"))}
    return None


def _method_of(config: Mapping[str, Any]) -> str:
    method = str(config.get("quant_method") or "").lower()
    if not method and (config.get("load_in_4bit") or config.get("load_in_8bit")):
        return "bitsandbytes"
    if method.startswith("bitsandbytes"):
        return "bitsandbytes"
    return method
