"""Reading config.json: every key has a type and a default, or is required."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from segue.core.errors import ConfigError
from segue.layers.rotary import RopeParams

__all__ = ["HFConfig"]

_UNSET: Any = object()


class HFConfig:
    """A typed view of a Hugging Face config.json. Each read names its default, or fails where the key is missing."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self.values = values

    @classmethod
    def from_folder(cls, folder: Path) -> "HFConfig":
        path = folder / "config.json"
        try:
            values = json.loads(path.read_text("utf-8"))
        except FileNotFoundError:
            raise ConfigError(f"{folder} holds no config.json: it is not a model in Hugging Face layout") from None
        except json.JSONDecodeError as error:
            raise ConfigError(f"{path} is not valid JSON: {error}") from None
        if not isinstance(values, dict):
            raise ConfigError(f"{path} must hold a JSON object")
        return cls(values)

    @property
    def model_type(self) -> str:
        return self.string("model_type", "")

    @property
    def architecture(self) -> str:
        names = self.values.get("architectures") or [""]
        return str(names[0])

    def renamed(self, **names: str) -> "HFConfig":
        """Keys that some versions spell otherwise, under the names that the family reads: ``n_embd="hidden_size"``."""
        renamed = {names[key]: value for key, value in self.values.items() if key in names and value is not None}
        return HFConfig({**self.values, **renamed})

    def has(self, key: str) -> bool:
        return self.values.get(key) is not None

    def integer(self, key: str, default: int = _UNSET) -> int:
        return self._number(key, default, int)

    def number(self, key: str, default: float = _UNSET) -> float:
        return float(self._number(key, default, (int, float)))

    def boolean(self, key: str, default: bool = _UNSET) -> bool:
        value = self._get(key, default)
        if not isinstance(value, bool):
            raise self._wrong(key, value, "a boolean")
        return value

    def string(self, key: str, default: str = _UNSET) -> str:
        value = self._get(key, default)
        if not isinstance(value, str):
            raise self._wrong(key, value, "a string")
        return value

    def optional_integer(self, key: str) -> int | None:
        return self.integer(key) if self.has(key) else None

    def optional_number(self, key: str) -> float | None:
        return self.number(key) if self.has(key) else None

    def strings(self, key: str) -> list[str] | None:
        value = self.values.get(key)
        if value is None:
            return None
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise self._wrong(key, value, "a list of strings")
        return value

    def token_ids(self, key: str) -> tuple[int, ...]:
        """A token id or a list of them; empty when absent."""
        value = self.values.get(key)
        if value is None:
            return ()
        ids = value if isinstance(value, list) else [value]
        if not all(isinstance(i, int) for i in ids):
            raise self._wrong(key, value, "a token id or a list of them")
        return tuple(ids)

    def section(self, key: str) -> "HFConfig":
        """A nested object such as ``text_config``."""
        value = self.values.get(key)
        if not isinstance(value, dict):
            raise self._wrong(key, value, "an object")
        return HFConfig(value)

    def rope(
        self, rotary_dim: int, *, theta: float = 10000.0, layer_type: str | None = None, partial: float = 1.0
    ) -> RopeParams:
        """The rope settings: ``rope_parameters`` (transformers 5) or ``rope_theta`` with ``rope_scaling`` (4).

        ``partial``: the family's default of ``partial_rotary_factor``, the share of ``rotary_dim`` that is rotated.
        """
        options: dict[str, Any] = dict(self.values.get("rope_parameters") or self.values.get("rope_scaling") or {})
        if layer_type is not None and isinstance(options.get(layer_type), dict):
            options = dict(options[layer_type])
        if self.has("original_max_position_embeddings"):
            options["original_max_position_embeddings"] = self.integer("original_max_position_embeddings")
        share = float(options.get("partial_rotary_factor") or self.number("partial_rotary_factor", partial))
        return RopeParams(
            rotary_dim=int(rotary_dim * share),
            theta=float(options.get("rope_theta") or self.number("rope_theta", theta)),
            max_positions=self.integer("max_position_embeddings", 2048),
            rope_type=str(options.get("rope_type") or options.get("type") or "default"),
            options=options,
        )

    def _number(self, key: str, default: Any, kind: type[int] | tuple[type, ...]) -> Any:
        value = self._get(key, default)
        if isinstance(value, bool) or not isinstance(value, kind):
            raise self._wrong(key, value, "a number" if kind is not int else "an integer")
        return value

    def _get(self, key: str, default: Any) -> Any:
        value = self.values.get(key)
        if value is None:
            value = default
        if value is _UNSET:
            raise ConfigError(f"config.json has no {key!r}, which model type {self.values.get('model_type')!r} needs")
        return value

    def _wrong(self, key: str, value: object, expected: str) -> ConfigError:
        return ConfigError(f"config.json: {key!r} must be {expected}, is {value!r}")
