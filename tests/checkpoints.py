"""Saved checkpoints as other versions would have written them, and the logits that we compute from them."""

import json
from collections.abc import Callable
from collections.abc import Sequence as Seq
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from segue.core.batch import ScheduledBatch, ScheduledSequence
from segue.core.request import SamplingParams
from segue.runner.build import ModelFacts, build_runner
from segue.runner.config import RunnerConfig
from segue.runner.input_batch import input_batch
from segue.runner.model_runner import ModelRunner

__all__ = ["assert_runs_in_bfloat16", "edit_config", "edit_weights", "hf_logits", "loaded", "logits", "logits_of"]


def edit_config(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    path = folder / "config.json"
    values = json.loads(path.read_text("utf-8"))
    change(values)
    path.write_text(json.dumps(values), "utf-8")


def edit_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> None:
    path = folder / "model.safetensors"
    save_file({name: tensor.clone() for name, tensor in change(load_file(path)).items()}, path)


def hf_logits(model: Any, ids: Seq[int]) -> torch.Tensor:
    """[len(ids), vocab_size] by transformers."""
    with torch.inference_mode():
        return model(torch.tensor([list(ids)])).logits[0]


def logits(folder: Path, ids: Seq[int], *, dtype: str = "float32", **options: Any) -> torch.Tensor:
    """[len(ids), vocab_size] float32 by our runner, from one prefill. ``options``: more of the ``RunnerConfig``."""
    return logits_of(loaded(folder, dtype=dtype, **options), ids)


def loaded(folder: Path, *, dtype: str = "float32", **options: Any) -> tuple[ModelRunner, ModelFacts]:
    return build_runner(
        RunnerConfig(
            model_folder=folder, dtype=dtype, device="cpu", block_size=4, max_batch_total_tokens=256, **options
        )
    )


def logits_of(runner_and_facts: tuple[ModelRunner, ModelFacts], ids: Seq[int]) -> torch.Tensor:
    """As ``logits``."""
    runner, facts = runner_and_facts
    sequence = ScheduledSequence(
        seq_id=0,
        token_ids=list(ids),
        num_computed_tokens=0,
        block_table=list(range(-(-len(ids) // 4))),
        sampling=SamplingParams(),
        needs_token=True,
        history=list(ids),
        num_prompt_tokens=len(ids),
        seed=0,
    )
    batch = ScheduledBatch(sequences=[sequence], num_decode_sequences=0)
    inputs = input_batch(batch, runner.kv_caches, 4, torch.device("cpu"), facts.long_prompt_boundary)
    ctx = replace(inputs.ctx, wanted=None)
    with torch.inference_mode():
        return runner.model.compute_logits(runner.model(inputs.input_ids, inputs.positions, ctx)).float()


def assert_runs_in_bfloat16(folder: Path) -> None:
    ids = list(range(5, 30))
    exact, rounded = logits(folder, ids), logits(folder, ids, dtype="bfloat16")
    likeness = torch.corrcoef(torch.stack((exact.flatten(), rounded.flatten())))[0, 1]
    assert likeness > 0.98, f"bfloat16 logits differ: their correlation with float32's is {likeness}"
