"""The engine process: ``python -m segue.launcher.engine_child``, told what to do on standard input.

Loads the model, then runs the engine's loop until it is told to end or its parent is gone. This is the one process
that imports torch.
"""

import contextlib
import ctypes
import dataclasses
import gc
import logging
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import msgspec

from segue.core.config import ServeConfig, cache_folder
from segue.core.errors import EngineDeadError, SegueError
from segue.core.output import EngineInfo
from segue.launcher.logs import set_up_logging

if TYPE_CHECKING:
    from segue.engine.engine import Engine
    from segue.runner.config import RunnerConfig

__all__ = [
    "EngineTask",
    "LoadFailed",
    "LoadProgress",
    "Report",
    "build_engine",
    "end_with_parent",
    "main",
    "runner_config",
]

MAX_BATCH_SIZE = 256
PR_SET_PDEATHSIG = 1

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineTask:
    """Parent → child, on standard input, as JSON."""

    config: ServeConfig
    model_folder: str
    endpoint: str
    """Where the engine's loop is to listen."""
    report_fd: int
    """Where the child writes its reports, one JSON object a line, while it loads."""
    parent_pid: int
    processors: tuple[int, ...] = ()
    """That it may use, where the parent may not use them all."""


class LoadProgress(msgspec.Struct, tag=True, frozen=True):
    """Child → parent: so much of the weights is loaded."""

    done_bytes: int
    total_bytes: int


class LoadFailed(msgspec.Struct, tag=True, frozen=True):
    """Child → parent: there will be no engine."""

    reason: str


Report = LoadProgress | LoadFailed


def main() -> int:
    """Returns the exit code: 0 when told to end, 1 when the engine could not be loaded or died."""
    task = msgspec.json.decode(sys.stdin.buffer.read(), type=EngineTask)
    end_with_parent(task.parent_pid)
    if task.processors:
        os.sched_setaffinity(0, task.processors)
    # The parent decides about the end: it drains first, whoever sent the signal to all of its processes.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    set_up_logging(task.config.log_level, json_output=task.config.json_output)
    os.set_inheritable(task.report_fd, False)
    with os.fdopen(task.report_fd, "wb", buffering=0) as reports:
        engine_and_info = _load(task, reports)
    if engine_and_info is None:
        return 1
    from segue.engine.engine_process import run_engine_loop

    try:
        run_engine_loop(*engine_and_info, task.endpoint)
    except EngineDeadError as error:
        logger.error("The engine cannot go on: %s", error)
        return 1
    return 0


def build_engine(
    config: ServeConfig, model_folder: Path, progress: Callable[[int, int], None] | None = None
) -> "tuple[Engine, EngineInfo]":
    """Load the model and put an engine around it. Imports torch.

    Raises ConfigError when model, memory and options do not fit together.
    """
    from segue.engine.config import EngineConfig
    from segue.engine.engine import Engine
    from segue.engine.gathering import GATHERING
    from segue.launcher.limits import engine_info, tokenizer_max_length
    from segue.launcher.speculation import check_vocabularies, max_step_tokens
    from segue.runner.build import build_runner
    from segue.runner.native_model import own_processor

    def tokenizer_json() -> str:
        from segue.launcher.tokenizer_files import ensure_tokenizer
        from segue.text.tokenizer import Tokenizer

        folder = ensure_tokenizer(model_folder, trust_remote_code=config.trust_remote_code)
        return Tokenizer.from_folder(folder, tokenizer_config_path=config.tokenizer_config_path).to_json()

    if config.speculative_model is not None:
        check_vocabularies(config, model_folder, Path(config.speculative_model))
    runner, facts = build_runner(
        runner_config(config, model_folder), progress, None if config.disable_grammar_support else tokenizer_json
    )
    info = engine_info(config, facts, tokenizer_max_length(model_folder))
    if facts.device == "cpu":
        info = dataclasses.replace(info, own_processor=own_processor())
    engine_config = EngineConfig(
        num_blocks=info.num_blocks,
        block_size=info.block_size,
        max_batch_size=config.max_batch_size or MAX_BATCH_SIZE,
        max_batch_prefill_tokens=info.max_batch_prefill_tokens,
        prefill_chunking=config.prefill_chunking,
        waiting_served_ratio=config.waiting_served_ratio,
        max_waiting_tokens=config.max_waiting_tokens,
        num_speculative_tokens=config.speculate or 0,
        max_speculative_step_tokens=max_step_tokens(facts),
        has_draft_model=config.speculative_model is not None,
        run_ahead=GATHERING if runner.can_run_ahead else None,
        enable_prefix_caching=config.prefix_caching,
        long_prompt_boundary=facts.long_prompt_boundary,
    )
    return Engine(engine_config, runner, runner.grammars), info


def runner_config(config: ServeConfig, model_folder: Path) -> "RunnerConfig":
    """The part of the options that is the runner's."""
    from segue.launcher.limits import longest_whole_prompt
    from segue.runner.config import RunnerConfig

    defaults = RunnerConfig(model_folder=model_folder)
    return RunnerConfig(
        model_folder=model_folder,
        draft_model_folder=None if config.speculative_model is None else Path(config.speculative_model),
        dtype=config.dtype,
        quantize=config.quantize,
        int8_activations=config.int8_activations,
        weight_cache=None if config.disable_weight_cache else cache_folder() / "weights",
        device=config.device,
        block_size=config.block_size,
        max_total_tokens=config.max_total_tokens,
        max_batch_prefill_tokens=(
            config.max_batch_prefill_tokens or max(defaults.max_batch_prefill_tokens, longest_whole_prompt(config))
        ),
        max_batch_size=config.max_batch_size or MAX_BATCH_SIZE,
        max_batch_total_tokens=config.max_batch_total_tokens,
        kv_cache_bytes=config.kv_cache_memory,
        kv_cache_dtype=config.kv_cache_dtype or defaults.kv_cache_dtype,
        memory_fraction=config.cuda_memory_fraction * config.tgi_wiggle_room,
        num_threads=config.num_threads,
        trust_remote_code=config.trust_remote_code,
        rope_scaling=config.rope_scaling,
        rope_factor=config.rope_factor,
        watermark_gamma=defaults.watermark_gamma if config.watermark_gamma is None else config.watermark_gamma,
        watermark_delta=defaults.watermark_delta if config.watermark_delta is None else config.watermark_delta,
    )


def _load(task: EngineTask, reports: BinaryIO) -> "tuple[Engine, EngineInfo] | None":
    def tell(report: Report) -> None:
        # A parent that no longer listens is going away, and this process with it.
        with contextlib.suppress(BrokenPipeError):
            reports.write(msgspec.json.encode(report) + b"\n")

    def tell_progress(done_bytes: int, total_bytes: int) -> None:
        tell(LoadProgress(done_bytes=done_bytes, total_bytes=total_bytes))

    # Objects that imports and loading make live for good: collecting among them only costs start-up time. Those of
    # imports (180,000) are not even looked at when the loop begins with a collection, which took 0.15 s.
    gc.disable()
    try:
        import segue.runner.build  # noqa: F401

        gc.freeze()
        return build_engine(task.config, Path(task.model_folder), tell_progress)
    except SegueError as error:
        tell(LoadFailed(reason=str(error)))
    except Exception as error:
        logger.exception("The engine could not be loaded")
        tell(LoadFailed(reason=f"{type(error).__name__}: {error}"))
    finally:
        gc.enable()
    return None


def end_with_parent(parent_pid: int) -> None:
    """Have the kernel end this process when its parent dies; without that, the engine's loop looks for it."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent_pid:  # it died before the call
        os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
