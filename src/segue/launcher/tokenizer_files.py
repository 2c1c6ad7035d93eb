"""A folder whose tokenizer Segue can read: the model's own, or a converted copy in the user's cache.

Old checkpoints come with a SentencePiece model or a vocabulary and no ``tokenizer.json``. ``transformers`` can turn
those into one; it runs in a process of its own, so that the server never imports it.
"""

import hashlib
import logging
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from segue.core.config import cache_folder
from segue.core.errors import ConfigError

__all__ = ["convert", "ensure_tokenizer"]

_SOURCES = (
    "spiece.model", "sentencepiece.bpe.model", "tokenizer.model", "vocab.json", "merges.txt", "vocab.txt",
    "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "config.json",
)  # fmt: skip
_TEMPLATES = ("chat_template.json", "chat_template.jinja", "additional_chat_templates", "processor_config.json")

logger = logging.getLogger(__name__)


def ensure_tokenizer(model_folder: Path, *, trust_remote_code: bool, cache: Path | None = None) -> Path:
    """A folder with ``tokenizer.json`` for the model: its own, or one in ``cache`` (default: the user's).

    Raises ConfigError when the model's tokenizer cannot be converted.
    """
    if (model_folder / "tokenizer.json").is_file():
        return model_folder
    target = (cache or cache_folder()) / "tokenizers" / _digest(model_folder)
    if (target / "tokenizer.json").is_file():
        return target
    logger.info("%s has no tokenizer.json: converting its tokenizer", model_folder)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        made = Path(scratch) / "tokenizer"
        command = [sys.executable, "-m", __name__, str(model_folder), str(made)]
        command += ["--trust-remote-code"] if trust_remote_code else []
        result = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)  # noqa: S603
        if result.returncode != 0:
            raise ConfigError(_explanation(model_folder, result.stderr))
        _copy_templates(model_folder, made)
        try:
            made.rename(target)
        except OSError:  # another server, started at the same time, was first
            if not (target / "tokenizer.json").is_file():
                raise
    return target


def convert(model_folder: Path, target: Path, *, trust_remote_code: bool) -> None:
    """Write ``tokenizer.json`` and its companions to ``target``; imports transformers.

    Raises ValueError when the tokenizer has no fast form.
    """
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(
        model_folder, use_fast=True, trust_remote_code=trust_remote_code, local_files_only=True
    )
    if not tokenizer.is_fast:
        raise ValueError(f"{type(tokenizer).__name__} has no fast form")
    tokenizer.save_pretrained(target)


def _digest(folder: Path) -> str:
    digest = hashlib.sha256()
    for name in _SOURCES:
        if (folder / name).is_file():
            digest.update(f"{name}\0".encode())
            digest.update((folder / name).read_bytes())
    return digest.hexdigest()[:32]


def _copy_templates(source: Path, target: Path) -> None:
    """The converted copy stands for the whole tokenizer, chat templates included."""
    for name in _TEMPLATES:
        if (source / name).is_dir():
            shutil.copytree(source / name, target / name, dirs_exist_ok=True)
        elif (source / name).is_file():
            shutil.copyfile(source / name, target / name)


def _explanation(folder: Path, stderr: str) -> str:
    lines = [line for line in stderr.strip().splitlines() if line.strip()]
    reason = lines[-1] if lines else "no reason given"
    return f"{folder} has no tokenizer.json, and its tokenizer could not be converted: {reason}"


def _main(arguments: list[str]) -> None:
    source, target, *flags = arguments
    convert(Path(source), Path(target), trust_remote_code=bool(flags))


if __name__ == "__main__":
    # No traceback of ours: the parent shows the last line.
    try:
        _main(sys.argv[1:])
    except Exception as error:
        print(f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else error!r}", file=sys.stderr)
        sys.stderr.flush()
        os._exit(1)
