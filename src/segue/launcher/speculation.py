"""``--speculate`` and ``--speculative-model``: where the model is, what it must share, and how far guessing pays."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from segue.core.config import ServeConfig
from segue.core.errors import ConfigError
from segue.launcher.download import find_model
from segue.launcher.tokenizer_files import ensure_tokenizer

if TYPE_CHECKING:
    from segue.runner.build import ModelFacts

__all__ = ["check_vocabularies", "max_step_tokens", "with_draft_folder"]

MAX_STEP_TOKENS = {"cpu": 16, "cuda": 128}
"""Most tokens of a step that holds guesses."""


def with_draft_folder(config: ServeConfig) -> ServeConfig:
    """``speculative_model`` as a local folder, downloaded if need be. Raises as ``find_model``."""
    if config.speculative_model is None:
        return config
    draft = dataclasses.replace(config, model_id=config.speculative_model, revision=None, weights_cache_override=None)
    return dataclasses.replace(config, speculative_model=str(find_model(draft).folder))


def check_vocabularies(config: ServeConfig, model_folder: Path, draft_folder: Path) -> None:
    """Raises ConfigError where an id means another token to the draft model. One may have tokens that the other lacks:
    checkpoints of one family differ in what was added."""
    spellings, draft_spellings = _spellings(config, model_folder), _spellings(config, draft_folder)
    for token_id in spellings.keys() & draft_spellings.keys():
        if spellings[token_id] != draft_spellings[token_id]:
            raise ConfigError(
                f"`speculative_model` must have the model's vocabulary: token {token_id} is "
                f"{spellings[token_id]!r} to the model and {draft_spellings[token_id]!r} to {draft_folder}"
            )


def max_step_tokens(facts: "ModelFacts") -> int:
    """A step of more tokens is bound by arithmetic: guesses would cost as much as they save."""
    return MAX_STEP_TOKENS.get(facts.device.partition(":")[0], MAX_STEP_TOKENS["cuda"])


def _spellings(config: ServeConfig, folder: Path) -> dict[int, str]:
    from segue.text.tokenizer import Tokenizer

    files = ensure_tokenizer(folder, trust_remote_code=config.trust_remote_code)
    return {token_id: spelling for spelling, token_id in Tokenizer.from_folder(files).vocabulary().items()}
