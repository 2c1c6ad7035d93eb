"""A LoRA adapter in PEFT's format merged into its base model: a checkpoint like any other. Imports torch.

W' = W + scale · B A (Hu et al. 2021), scale = lora_alpha / r, or lora_alpha / √r with rsLoRA; modules to save take the
base's place. Computed in float32 and stored as the base is, one file of the base at a time.
"""

import json
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from segue.core.errors import ConfigError
from segue.launcher.bin_weights import Progress, read_bin, write_safetensors

__all__ = ["Adapter", "merge_adapter"]

_REFUSED = {
    "use_dora": "DoRA",
    "lora_bias": "biases of its own",
    "use_qalora": "QALoRA",
    "layer_replication": "layer replication",
    "trainable_token_indices": "trained tokens",
    "target_parameters": "adapted parameters",
    "megatron_config": "Megatron layers",
}
_TEXT_FILES = ("tokenizer", "special_tokens_map", "added_tokens", "vocab", "merges", "spiece", "sentencepiece")
_KEY = re.compile(r"(?:base_model\.model\.)?(?P<path>.+?)\.(?P<kind>lora_(?:embedding_)?[AB])(?:\.\w+)?(?:\.weight)?")


@dataclass(slots=True)
class _Delta:
    """The two factors of one module's change."""

    down: Tensor | None = None  # [r, in]
    up: Tensor | None = None  # [out, r]
    is_embedding: bool = False


@dataclass(slots=True)
class Adapter:
    """What ``adapter_config.json`` and ``adapter_model.*`` say."""

    config: Mapping[str, Any]
    deltas: dict[str, _Delta] = field(default_factory=dict)
    """By the module's path in the base's class."""
    replacements: dict[str, Tensor] = field(default_factory=dict)
    """By the tensor's name there: modules to save, and biases."""

    @classmethod
    def read(cls, folder: Path) -> "Adapter":
        """Raises ConfigError for an adapter that is no LoRA, or of a kind that cannot be merged here."""
        config = json.loads((folder / "adapter_config.json").read_text("utf-8"))
        if config.get("peft_type", "LORA") != "LORA":
            raise ConfigError(f"{folder} is an adapter of type {config['peft_type']}; only LoRA can be merged")
        for key, name in _REFUSED.items():
            if config.get(key):
                raise ConfigError(f"{folder} uses {name}, which cannot be merged here")
        adapter = cls(config)
        for name, tensor in _read_adapter_weights(folder).items():
            adapter._take(name, tensor)
        incomplete = [path for path, delta in adapter.deltas.items() if delta.down is None or delta.up is None]
        if incomplete:
            raise ConfigError(f"{folder} holds half of the change of {incomplete[0]}")
        return adapter

    def _take(self, name: str, tensor: Tensor) -> None:
        match = _KEY.fullmatch(name)
        if match is None:
            plain = name.removeprefix("base_model.model.").replace(".modules_to_save.default.", ".")
            self.replacements[plain.replace(".modules_to_save.", ".").replace(".base_layer.", ".")] = tensor
            return
        delta = self.deltas.setdefault(match["path"], _Delta())
        delta.is_embedding = "embedding" in match["kind"]
        if match["kind"].endswith("A"):
            delta.down = tensor
        else:
            delta.up = tensor

    def change(self, path: str) -> Tensor:
        """What is added to the weight of the module ``path``, in float32 and in the weight's own orientation."""
        delta = self.deltas[path]
        assert delta.down is not None
        assert delta.up is not None
        product = delta.up.float() @ delta.down.float() * self._scale(path, delta.down.shape[0])
        return product.T if delta.is_embedding or self.config.get("fan_in_fan_out") else product

    def _scale(self, path: str, rank: int) -> float:
        alpha = float(_by_pattern(self.config.get("alpha_pattern"), path, self.config.get("lora_alpha", rank)))
        return alpha / (rank**0.5 if self.config.get("use_rslora") else rank)


def merge_adapter(adapter_folder: Path, base_folder: Path, output: Path, progress: Progress | None = None) -> None:
    """Write the merged checkpoint, with the base's configuration and the adapter's tokenizer if it brings one.

    Raises ConfigError when adapter and base do not belong together.
    """
    adapter = Adapter.read(adapter_folder)
    config = json.loads((base_folder / "config.json").read_text("utf-8"))
    if config.get("quantization_config"):
        raise ConfigError(f"{base_folder} is quantized: an adapter cannot be merged into it")
    files = _base_files(base_folder)
    total, done = sum(file.stat().st_size for file in files), 0
    names = _Names(adapter)
    output.mkdir(parents=True, exist_ok=True)
    weight_map: dict[str, str] = {}
    dtype = torch.float32
    for number, file in enumerate(files, start=1):
        merged = {}
        for name, tensor in _tensors(file):
            merged[name] = names.merged(name, tensor)
            dtype = tensor.dtype if tensor.is_floating_point() else dtype
        if number == len(files):
            merged |= {name: tensor.to(dtype) for name, tensor in names.unused_replacements()}
        target = output / (
            f"model-{number:05}-of-{len(files):05}.safetensors" if len(files) > 1 else "model.safetensors"
        )
        write_safetensors({name: tensor.contiguous().clone() for name, tensor in merged.items()}, target)
        weight_map |= dict.fromkeys(merged, target.name)
        done += file.stat().st_size
        if progress is not None:
            progress(done, total)
    names.check_all_used(adapter_folder, base_folder)
    if len(files) > 1:
        index = {"metadata": {}, "weight_map": dict(sorted(weight_map.items()))}
        (output / "model.safetensors.index.json").write_text(json.dumps(index, indent=2))
    _copy_small_files(adapter_folder, base_folder, output)
    (output / "config.json").write_text(json.dumps(_merged_config(config, adapter), indent=2))


class _Names:
    """Which of the adapter's modules is which tensor of the checkpoint.

    The adapter names modules by their path in the class with a head; a checkpoint may leave the first part out
    (GPT-2's ``h.0.attn.c_attn.weight`` is ``transformer.h.0.attn.c_attn`` there).
    """

    def __init__(self, adapter: Adapter) -> None:
        self._adapter = adapter
        self._modules = _by_suffix(adapter.deltas)
        self._tensors = _by_suffix(adapter.replacements)
        self._unused_deltas = set(adapter.deltas)
        self._unused_replacements = set(adapter.replacements)

    def merged(self, name: str, tensor: Tensor) -> Tensor:
        """The tensor that takes the place of the base's. Raises ConfigError where their shapes differ."""
        replacement = self._tensors.get(name)
        if replacement is not None:
            self._unused_replacements.discard(replacement)
            tensor = self._adapter.replacements[replacement].to(tensor.dtype)
        path = self._modules.get(name.removesuffix(".weight")) if name.endswith(".weight") else None
        if path is None:
            return tensor
        self._unused_deltas.discard(path)
        change = self._adapter.change(path)
        if change.shape != tensor.shape:
            raise ConfigError(
                f"the adapter's change of {path} is {list(change.shape)}, the base's weight {list(tensor.shape)}"
            )
        return (tensor.float() + change).to(tensor.dtype)

    def unused_replacements(self) -> Iterator[tuple[str, Tensor]]:
        """Tensors that the base does not have, such as a head that it ties to its embeddings."""
        for name in sorted(self._unused_replacements):
            yield name, self._adapter.replacements[name]

    def check_all_used(self, adapter_folder: Path, base_folder: Path) -> None:
        if self._unused_deltas:
            example = min(self._unused_deltas)
            raise ConfigError(
                f"{base_folder} has no {example}: {adapter_folder} belongs to another base model "
                f"({self._adapter.config.get('base_model_name_or_path')})"
            )


def _by_suffix(names: Mapping[str, object]) -> dict[str, str]:
    """Each name by itself, and by what follows its first part where that is no other's."""
    shortened: dict[str, list[str]] = {}
    for name in names:
        shortened.setdefault(name.partition(".")[2], []).append(name)
    return {short: full[0] for short, full in shortened.items() if short and len(full) == 1} | {n: n for n in names}


def _by_pattern(patterns: Mapping[str, Any] | None, path: str, default: Any) -> Any:
    """PEFT's: a pattern matches a path's end."""
    for pattern, value in (patterns or {}).items():
        if re.fullmatch(rf"(.*\.)?({pattern})", path):
            return value
    return default


def _merged_config(config: dict[str, Any], adapter: Adapter) -> dict[str, Any]:
    embeddings = [
        tensor.shape[0]
        for name, tensor in adapter.replacements.items()
        if name.endswith(("embed_tokens.weight", "wte.weight", "word_embeddings.weight", "shared.weight"))
    ]
    if embeddings:  # tokens were added
        config["vocab_size"] = embeddings[0]
    if any(name.endswith(("lm_head.weight", "embed_out.weight")) for name in adapter.replacements):
        config["tie_word_embeddings"] = False
    return config


def _base_files(folder: Path) -> list[Path]:
    files = sorted(folder.glob("model*.safetensors")) or sorted(folder.glob("*.safetensors"))
    files = files or sorted(folder.glob("pytorch_model*.bin"))
    if not files:
        raise ConfigError(f"{folder} holds no weights")
    return files


def _tensors(file: Path) -> Iterator[tuple[str, Tensor]]:
    if file.suffix == ".bin":
        yield from read_bin(file).items()
        return
    with safe_open(file, framework="pt") as handle:
        for name in handle.keys():  # noqa: SIM118 - not a dict
            yield name, handle.get_tensor(name)


def _read_adapter_weights(folder: Path) -> dict[str, Tensor]:
    if (folder / "adapter_model.safetensors").is_file():
        return dict(load_file(folder / "adapter_model.safetensors"))
    if (folder / "adapter_model.bin").is_file():
        return read_bin(folder / "adapter_model.bin")
    raise ConfigError(f"{folder} holds no adapter_model.safetensors or adapter_model.bin")


def _copy_small_files(adapter_folder: Path, base_folder: Path, output: Path) -> None:
    """The base's, with the adapter's tokenizer as a whole in its place."""
    suffixes = (".json", ".txt", ".model", ".jinja", ".py")
    base = [path for path in base_folder.iterdir() if path.suffix in suffixes and "index" not in path.name]
    own = [path for path in adapter_folder.iterdir() if path.suffix in suffixes and _is_text_file(path)]
    if (adapter_folder / "tokenizer_config.json").is_file():
        base = [path for path in base if not _is_text_file(path)]
    else:
        own = [path for path in own if path.name.startswith("chat_template")]
    for path in (*base, *own):
        shutil.copyfile(path, output / path.name)


def _is_text_file(path: Path) -> bool:
    return path.name.startswith((*_TEXT_FILES, "chat_template"))
