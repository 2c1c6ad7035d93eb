"""What a model folder says about its tokenizer, read the way ``transformers.AutoTokenizer`` reads it.

Owns the file names, their precedence and the token additions they imply; knows nothing of encoding or decoding.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import AddedToken

from segue.core.errors import ConfigError

__all__ = ["TokenizerFiles", "missing_tokens", "read_chat_templates", "read_tokenizer_files"]

_NAMED_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")

# transformers gives these to a class whose files name no token themselves: class → (bos, eos).
_CLASS_DEFAULTS: dict[str, tuple[str | None, str | None]] = {
    "BartTokenizer": ("<s>", "</s>"),
    "BlenderbotTokenizer": ("<s>", "</s>"),
    "CodeGenTokenizer": ("<|endoftext|>", "<|endoftext|>"),
    "GPT2Tokenizer": ("<|endoftext|>", "<|endoftext|>"),
    "GPTNeoXTokenizer": ("<|endoftext|>", "<|endoftext|>"),
    "GemmaTokenizer": ("<bos>", "<eos>"),
    "LlamaTokenizer": ("<s>", "</s>"),
    "M2M100Tokenizer": ("<s>", "</s>"),
    "MBartTokenizer": ("<s>", "</s>"),
    "MarianTokenizer": (None, "</s>"),
    "NllbTokenizer": ("<s>", "</s>"),
    "PegasusTokenizer": (None, "</s>"),
    "Qwen2Tokenizer": (None, "<|endoftext|>"),
    "RobertaTokenizer": ("<s>", "</s>"),
    "T5Tokenizer": (None, "</s>"),
}

# Where tokenizer_config.json names no class. Types missing here (llama, bloom, falcon, …) have no class of their own.
_CLASS_OF_MODEL_TYPE = {
    "bart": "RobertaTokenizer",
    "blenderbot": "BlenderbotTokenizer",
    "codegen": "GPT2Tokenizer",
    "gemma": "GemmaTokenizer",
    "gemma2": "GemmaTokenizer",
    "gemma3_text": "GemmaTokenizer",
    "gpt2": "GPT2Tokenizer",
    "gpt_neo": "GPT2Tokenizer",
    "gpt_neox": "GPTNeoXTokenizer",
    "gptj": "GPT2Tokenizer",
    "m2m_100": "M2M100Tokenizer",
    "marian": "MarianTokenizer",
    "mbart": "MBartTokenizer",
    "mt5": "T5Tokenizer",
    "opt": "GPT2Tokenizer",
    "pegasus": "PegasusTokenizer",
    "phi": "GPT2Tokenizer",
    "qwen2": "Qwen2Tokenizer",
    "qwen2_moe": "Qwen2Tokenizer",
    "qwen3": "Qwen2Tokenizer",
    "starcoder2": "GPT2Tokenizer",
    "t5": "T5Tokenizer",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizerFiles:
    tokenizer_json: str
    """The text of ``tokenizer.json``."""
    config: dict[str, Any]
    """``tokenizer_config.json``, with ``special_tokens_map.json`` merged in where transformers would; may be empty."""
    added_tokens: dict[int, AddedToken]
    """By id: what the config files (not ``tokenizer.json``) say was added to the vocabulary."""
    class_defaults: dict[str, str]
    """``bos_token`` and ``eos_token`` of the tokenizer class, for where ``config`` lacks the key."""
    chat_templates: dict[str, str]


def read_tokenizer_files(folder: Path, *, tokenizer_config_path: Path | None = None) -> TokenizerFiles:
    """Read all tokenizer files of ``folder``.

    Raises ConfigError when there is no ``tokenizer.json`` or a file is not what its name says.
    """
    tokenizer_json = folder / "tokenizer.json"
    if not tokenizer_json.is_file():
        raise ConfigError(_no_tokenizer_json(folder))
    if tokenizer_config_path is not None and not tokenizer_config_path.is_file():
        raise ConfigError(f"tokenizer config {tokenizer_config_path} does not exist")
    config = _read_object(tokenizer_config_path or folder / "tokenizer_config.json")
    chat_templates = read_chat_templates(folder, config)
    if "added_tokens_decoder" in config:
        added = {int(index): _added_token(token) for index, token in config["added_tokens_decoder"].items()}
    else:
        # Before added_tokens_decoder existed, these two files held the same facts.
        config = config | _read_object(folder / "special_tokens_map.json")
        added = _legacy_added_tokens(_read_object(folder / "added_tokens.json"), config)
    return TokenizerFiles(
        tokenizer_json=_read_text(tokenizer_json),
        config=config,
        added_tokens=added,
        class_defaults=_class_defaults(folder, config),
        chat_templates=chat_templates,
    )


def read_chat_templates(folder: Path, tokenizer_config: dict[str, Any]) -> dict[str, str]:
    """Name → Jinja source, from the first source that has any.

    TGI's order: ``chat_template.json``, the tokenizer config, ``processor_config.json``. Beyond TGI, where none of
    them has a template: ``chat_template.jinja`` with ``additional_chat_templates/*.jinja``.
    """
    for source in (
        _read_object(folder / "chat_template.json"),
        tokenizer_config,
        _read_object(folder / "processor_config.json"),
    ):
        templates = _named_templates(source.get("chat_template"))
        if templates:
            return templates
    templates = {}
    default = folder / "chat_template.jinja"
    if default.is_file():
        templates["default"] = _read_text(default)
    for path in sorted((folder / "additional_chat_templates").glob("*.jinja")):
        templates[path.stem] = _read_text(path)
    return templates


def missing_tokens(files: TokenizerFiles, named: dict[str, Any], known: dict[int, AddedToken]) -> list[AddedToken]:
    """Tokens that the config files name and ``known``, the backend's added tokens, lacks or has with other flags.

    ``named`` is the config with the class defaults that hold. The order is transformers', because tokens new to the
    vocabulary get their ids by it.
    """
    known_as_text = {repr(token) for token in known.values()}
    result = [token for _, token in sorted(files.added_tokens.items()) if repr(token) not in known_as_text]
    seen = {token.content for token in known.values()} | {token.content for token in result}
    by_content = {token.content: token for token in files.added_tokens.values()}
    for value in _special_tokens(named):
        token = by_content.get(_content(value)) or _added_token(value, special=True)
        if token.content and token.content not in seen:
            seen.add(token.content)
            result.append(token)
    named_contents = {_content(named[key]) for key in _NAMED_TOKENS if named.get(key)}
    for token in result:
        token.special = token.special or token.content in named_contents
    return result


def _no_tokenizer_json(folder: Path) -> str:
    sources = ("spiece.model", "tokenizer.model", "sentencepiece.bpe.model", "vocab.json", "vocab.txt", "tekken.json")
    found = [name for name in sources if (folder / name).is_file()]
    if found:
        return (
            f"{folder} has no tokenizer.json, only {', '.join(found)}: it must be converted first, which"
            " `transformers.AutoTokenizer.from_pretrained(folder).save_pretrained(folder)` does"
        )
    return f"{folder} has no tokenizer.json"


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read {path}: {error}") from error


def _read_object(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        value = json.loads(_read_text(path))
    except ValueError as error:
        raise ConfigError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise ConfigError(f"{path} is not a JSON object")
    return value


def _named_templates(value: object) -> dict[str, str]:
    match value:
        case str():
            return {"default": value}
        case dict():
            return {str(name): str(source) for name, source in value.items()}
        case list():
            return {
                entry["name"]: entry["template"]
                for entry in value
                if isinstance(entry, dict)
                and isinstance(entry.get("name"), str)
                and isinstance(entry.get("template"), str)
            }
        case _:
            return {}


def _content(value: object) -> str:
    return str(value.get("content", "")) if isinstance(value, dict) else str(value)


def _added_token(value: object, *, special: bool = False) -> AddedToken:
    if not isinstance(value, dict):
        return AddedToken(str(value), special=special)
    flags = {key: bool(value[key]) for key in ("lstrip", "rstrip", "single_word", "normalized") if key in value}
    return AddedToken(_content(value), special=bool(value.get("special", special)), **flags)


def _special_tokens(config: dict[str, Any]) -> list[Any]:
    """Strings and AddedToken objects (as dicts): the named ones, the model's own names, the unnamed ones."""
    extra = config.get("extra_special_tokens") or config.get("additional_special_tokens") or []
    named_extra = list(extra.values()) if isinstance(extra, dict) else []
    return [
        *(config[name] for name in _NAMED_TOKENS if config.get(name)),
        *(
            value
            for name, value in config.items()
            if name.endswith("_token") and name not in _NAMED_TOKENS and _is_token(value)
        ),
        *named_extra,
        *(extra if isinstance(extra, list) else []),
    ]


def _is_token(value: object) -> bool:
    return isinstance(value, str) or (isinstance(value, dict) and "content" in value)


def _legacy_added_tokens(encoder: dict[str, Any], config: dict[str, Any]) -> dict[int, AddedToken]:
    special = {_content(value) for value in _special_tokens(config)}
    return {
        int(index): AddedToken(content, special=content in special, normalized=content not in special)
        for content, index in encoder.items()
    }


def _class_defaults(folder: Path, config: dict[str, Any]) -> dict[str, str]:
    name = str(config.get("tokenizer_class") or "").removesuffix("Fast")
    if not name:
        name = _CLASS_OF_MODEL_TYPE.get(str(_read_object(folder / "config.json").get("model_type")), "")
    tokens = zip(("bos_token", "eos_token"), _CLASS_DEFAULTS.get(name, ()), strict=False)
    return {key: token for key, token in tokens if token is not None}
