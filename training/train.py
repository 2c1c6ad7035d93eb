"""Train a sample model: `python -m training.train chat|t5 --steps N` (README.md has the shipped models' commands)."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch.nn import functional
from transformers import PreTrainedModel

from training import attention, batches, models, vocabulary

SAMPLES = Path(__file__).parents[1] / "src" / "segue" / "samples"
SEED = 1
_MATRIX_RATE = 0.02
_OTHER_RATE = 0.004
# T5's embeddings begin fifty times as large as Llama's.
_T5_OTHER_RATE = 0.01
_WARM_UP = 40
_DECAY_SHARE = 0.45
# The chat model sees long rows in the last part of a stage only: short ones are cheaper.
_LENGTH = 384
_LONG_LENGTH, _LONG_SHARE = 1024, 0.12
_HELD_OUT_SEED = 10_000


@dataclass(frozen=True, slots=True)
class Run:
    """A model, its endless training losses, its loss on held-out text, and how to save it."""

    model: PreTrainedModel
    losses: Iterator[torch.Tensor]
    held_out: Callable[[], float]
    save: Callable[[Path], None]


@dataclass(frozen=True, slots=True)
class Stage:
    """A stretch of training with its own warm-up and decay: steps, rows a step, text seed, weights to begin with."""

    steps: int
    rows: int
    seed: int
    start: Path | None


def chat_run(stage: Stage) -> Run:
    """The chat model with the weighted loss over packed rows."""
    tokenizer = Tokenizer.from_file(str(stage.start / "tokenizer.json")) if stage.start else vocabulary.chat_tokenizer()
    model = models.chat_model(tokenizer.get_vocab_size())
    if stage.start:
        model = type(model).from_pretrained(stage.start, dtype=torch.float32)
    model.set_attn_implementation(attention.register())
    forward = torch.compile(model, dynamic=False)

    def loss(batch: batches.Packed) -> torch.Tensor:
        logits = forward(batch.input_ids, use_cache=False).logits
        each = functional.cross_entropy(logits.flatten(0, 1).float(), batch.targets.flatten(), reduction="none")
        weights = batch.weights.flatten()
        return (each * weights).sum() / weights.sum()

    def losses() -> Iterator[torch.Tensor]:
        short = batches.packed(tokenizer, stage.seed, stage.rows, _LENGTH)
        for _ in range(round(stage.steps * (1 - _LONG_SHARE))):
            yield loss(next(short))
        for batch in batches.packed(tokenizer, stage.seed + 1, stage.rows * _LENGTH // _LONG_LENGTH, _LONG_LENGTH):
            yield loss(batch)

    def held_out() -> float:
        batch = next(batches.packed(tokenizer, _HELD_OUT_SEED, 32, _LENGTH))
        with torch.no_grad():
            return loss(batch).item()

    return Run(model, losses(), held_out, lambda folder: models.save_chat(folder, model, tokenizer))


def t5_run(stage: Stage) -> Run:
    """The encoder-decoder model with the plain loss over the targets."""
    tokenizer = Tokenizer.from_file(str(stage.start / "tokenizer.json")) if stage.start else vocabulary.t5_tokenizer()
    model = models.t5_model(tokenizer.get_vocab_size())
    if stage.start:
        model = type(model).from_pretrained(stage.start, dtype=torch.float32)

    def loss(batch: batches.Padded) -> torch.Tensor:
        result = model(
            input_ids=batch.input_ids, attention_mask=batch.attention_mask, labels=batch.labels, use_cache=False
        )
        return result.loss  # type: ignore[no-any-return]

    def held_out() -> float:
        source = batches.padded(tokenizer, _HELD_OUT_SEED, 64)
        with torch.no_grad():
            return sum(loss(next(source)).item() for _ in range(16)) / 16

    losses = map(loss, batches.padded(tokenizer, stage.seed, stage.rows))
    return Run(model, losses, held_out, lambda folder: models.save_t5(folder, model, tokenizer))


def optimizers(model: PreTrainedModel) -> list[torch.optim.Optimizer]:
    """Muon (Jordan, 2024) for the layers' matrices, AdamW for embeddings, norms and the position bias."""
    layered = [(name, value) for name, value in model.named_parameters() if value.requires_grad]
    matrices = [
        value
        for name, value in layered
        if value.ndim == 2 and ".weight" in name and "embed" not in name and "shared" not in name and "bias" not in name
    ]
    others = [value for _, value in layered if all(value is not matrix for matrix in matrices)]
    return [
        torch.optim.Muon(matrices, lr=_MATRIX_RATE, weight_decay=0.05, momentum=0.95),
        torch.optim.AdamW(
            others,
            lr=_T5_OTHER_RATE if model.config.is_encoder_decoder else _OTHER_RATE,
            betas=(0.9, 0.98),
            weight_decay=0.0,
        ),
    ]


def rate_at(step: int, steps: int) -> float:
    """Share of the full rate: linear warm-up, constant, then linear down to nothing."""
    return min(1.0, (step + 1) / _WARM_UP, (steps - step) / (steps * _DECAY_SHARE))


def train(run: Run, steps: int, rate: float, out: Path, save_every: int) -> None:
    """Take `steps` optimizer steps at `rate` times the full rates, saving now and then and at the end."""
    chosen = optimizers(run.model)
    full_rates = [optimizer.param_groups[0]["lr"] * rate for optimizer in chosen]
    print(f"{sum(value.numel() for value in run.model.parameters()):,} weights", flush=True)
    started, mean = time.perf_counter(), 0.0
    for step in range(steps):
        with torch.autocast("cpu", torch.bfloat16):
            loss = next(run.losses)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(run.model.parameters(), 1.0)
        for optimizer, full in zip(chosen, full_rates, strict=True):
            optimizer.param_groups[0]["lr"] = full * rate_at(step, steps)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        mean = loss.item() if step == 0 else 0.95 * mean + 0.05 * loss.item()
        if step % 20 == 0 or step == steps - 1:
            print(f"step {step} loss {mean:.4f} seconds {time.perf_counter() - started:.0f}", flush=True)
        if (step + 1) % save_every == 0:
            print(f"held-out loss {run.held_out():.4f}", flush=True)
            run.save(out)
    print(f"held-out loss {run.held_out():.4f}", flush=True)
    run.save(out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", choices=["chat", "t5"])
    parser.add_argument("--steps", type=int, required=True, help="optimizer steps")
    parser.add_argument("--rows", type=int, help="rows (chat: 16) or pairs (t5: 64) a step")
    parser.add_argument("--seed", type=int, default=SEED, help="seed of the text")
    parser.add_argument("--rate", type=float, default=1.0, help="share of the full learning rates")
    parser.add_argument("--start", type=Path, help="checkpoint to begin with (default: random weights)")
    parser.add_argument("--out", type=Path, help="folder to write (default: the package's samples)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--save-every", type=int, default=300)
    arguments = parser.parse_args()
    torch.manual_seed(SEED)
    torch.set_num_threads(arguments.threads)
    rows = arguments.rows or (16 if arguments.model == "chat" else 64)
    run = (chat_run if arguments.model == "chat" else t5_run)(
        Stage(arguments.steps, rows, arguments.seed, arguments.start)
    )
    train(run, arguments.steps, arguments.rate, arguments.out or SAMPLES / arguments.model, arguments.save_every)


if __name__ == "__main__":
    main()
