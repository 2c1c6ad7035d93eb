"""``--speculate`` and ``--speculative-model``: where the model is, what it must share, and how far guessing pays."""

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING

from segue.core.config import ServeConfig
from segue.core.errors import ConfigError
from segue.launcher.download import ModelSource, find_model
from segue.launcher.merged_models import parent_of
from segue.launcher.tokenizer_files import ensure_tokenizer

if TYPE_CHECKING:
    from segue.runner.build import ModelFacts

__all__ = ["check_vocabularies", "max_step_tokens", "with_speculation"]

MAX_STEP_TOKENS = {"cpu": 32, "cuda": 128}
"""Most tokens of a step that holds guesses. On two Zen 5 cores an opt-125m takes 1.3 times as long for 5 tokens as for
one, 1.7 for 17, 2.1 for 33 (benchmarks/speculation.py --curve): beyond that, a guess costs more than half of what an
average token does. On GPUs TGI's limit."""


def with_speculation(config: ServeConfig, source: ModelSource) -> tuple[ServeConfig, ModelSource]:
    """``speculative_model`` as a local folder. A model that is heads only, of Medusa or an MLP speculator, becomes the
    speculative model of the one that it names as its base, as in TGI.

    Raises ConfigError where heads name no base or are fewer than ``speculate``; else as ``find_model``.
    """
    if config.speculative_model is not None:
        draft = find_model(_of(config, config.speculative_model)).folder
        speculate = config.speculate or 0
        return (
            dataclasses.replace(
                config, speculative_model=str(draft), speculate=min(speculate, _num_heads(draft) or speculate)
            ),
            source,
        )
    num_heads = _num_heads(source.folder)
    if num_heads is None:
        return config, source
    parent = parent_of(source.folder, source.model_id)
    if parent is None:
        raise ConfigError(f"{source.folder}/config.json does not name its base model (`base_model_name_or_path`)")
    if (config.speculate or 0) > num_heads:
        raise ConfigError(
            f"Speculate is set to `{config.speculate}` but this medusa models only has `{num_heads}` heads, "
            "please make them match"
        )
    base = dataclasses.replace(source, folder=find_model(_of(config, parent)).folder)
    if config.speculate == 0:
        return config, base
    return (
        dataclasses.replace(config, speculative_model=str(source.folder), speculate=config.speculate or num_heads),
        base,
    )


def check_vocabularies(config: ServeConfig, model_folder: Path, draft_folder: Path) -> None:
    """Raises ConfigError where an id means another token to the draft model. One may have tokens that the other lacks:
    checkpoints of one family differ in what was added. Heads have no vocabulary of their own."""
    if _num_heads(draft_folder) is not None:
        return
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


def _of(config: ServeConfig, model_id: str) -> ServeConfig:
    """``config`` for another model than the one whose revision and files it names."""
    return dataclasses.replace(config, model_id=model_id, revision=None, weights_cache_override=None)


def _num_heads(folder: Path) -> int | None:
    """How many tokens ahead a checkpoint of heads guesses; None: it is a model."""
    values = json.loads((folder / "config.json").read_text("utf-8"))
    if "medusa_num_heads" in values:
        return int(values["medusa_num_heads"])
    return int(values["n_predict"]) if values.get("model_type") == "mlp_speculator" else None


def _spellings(config: ServeConfig, folder: Path) -> dict[int, str]:
    from segue.text.tokenizer import Tokenizer

    files = ensure_tokenizer(folder, trust_remote_code=config.trust_remote_code)
    return {token_id: spelling for spelling, token_id in Tokenizer.from_folder(files).vocabulary().items()}
