"""The loop's body: schedule, execute, update. Knows neither tensors nor text nor processes."""

import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

from segue.core.batch import ScheduledBatch, StepOutput
from segue.core.errors import EngineDeadError
from segue.core.output import EngineStep, RequestOutput, StepStats
from segue.core.request import Request
from segue.engine.config import EngineConfig
from segue.engine.grammars import Grammars
from segue.engine.scheduler import Scheduler

__all__ = ["Engine", "Runner"]

logger = logging.getLogger(__name__)


class Runner(Protocol):
    """Runs a batch on the device."""

    def execute(self, batch: ScheduledBatch) -> StepOutput:
        """Raises ``EngineDeadError`` when the device cannot be used any more; any other error is the batch's own."""


@dataclass(slots=True)
class _StepRecord:
    """How the step went; the names are those of ``StepStats``."""

    num_failed_prefills: int = 0
    num_failed_decodes: int = 0
    has_failed: bool = False
    schedule_s: float = 0.0
    forward_s: float = 0.0
    sample_s: float = 0.0
    update_s: float = 0.0


class Engine:
    """Requests in, outputs out, step by step; used by one thread."""

    def __init__(self, config: EngineConfig, runner: Runner, grammars: Grammars | None = None) -> None:
        """``grammars`` compiles those of requests; None: a request that has one is refused."""
        self.config = config
        self.scheduler = Scheduler(config, grammars)
        self._runner = runner
        self._has_news = False
        self._record = _StepRecord()
        self.news_file = -1
        """The number of a file that can be read when somebody wants to be heard between two steps; -1: none."""

    @property
    def has_work(self) -> bool:
        """Whether ``step`` has something to do or to tell."""
        return self._has_news or self.scheduler.has_work

    def reconfigure(self, config: EngineConfig) -> None:
        """Go on with other budgets. Raises ``ValueError`` while there is work."""
        if self.has_work:
            raise ValueError("the engine is at work")
        self.config = config
        self.scheduler.reconfigure(config)

    def add(self, request: Request) -> None:
        """Raises ``ValueError`` when the request's id is live already; all other errors come as its output."""
        self.scheduler.add(request)
        self._has_news = True

    def abort(self, request_ids: Iterable[int]) -> None:
        """Free all that these requests hold, at once; they get no more outputs. Unknown ids are ignored."""
        self.scheduler.abort(request_ids)
        self._has_news = True

    def wake_with(self, wake: Callable[[], None]) -> None:
        """Have ``wake`` called, in any thread, when ``has_work`` may have become True without ``add`` or ``abort``."""
        if self.scheduler.grammars is not None:
            self.scheduler.grammars.on_ready = wake

    def step(self) -> EngineStep | None:
        """Run one step, or the several that a batch may take.

        None if there is nothing to do and no gauge has changed since the last call.

        A step that raises is run again in halves, so that only the requests at fault get its error.
        Raises ``EngineDeadError`` when the runner does; the engine is then of no more use.
        """
        if not self.has_work:
            return None
        start = time.perf_counter()
        self._has_news = False
        self._record = _StepRecord()
        batch = self.scheduler.schedule(self.news_file)
        self._record.schedule_s = time.perf_counter() - start
        outputs = self.scheduler.take_refused()
        if batch is not None:
            self._record.has_failed = True
            outputs += self._execute(batch)
        return EngineStep(outputs=tuple(outputs), stats=self._stats(time.perf_counter() - start))

    def _execute(self, batch: ScheduledBatch) -> list[RequestOutput]:
        try:
            output = self._runner.execute(batch)
        except EngineDeadError:
            raise
        except Exception as error:
            self._count_failure(batch)
            if len(batch.sequences) == 1:
                logger.exception("A step failed; its request ends")
                return self.scheduler.fail(batch, str(error) or type(error).__name__)
            logger.warning("A step of %d sequences failed, trying its halves: %r", len(batch.sequences), error)
        else:
            return self._update(batch, output)
        outputs = []
        for half in _halves(batch):
            # The second half may share blocks that a sequence of the first one failed to fill.
            runnable = self.scheduler.retract(half)
            if runnable is not None:
                outputs += self._execute(runnable)
        return outputs

    def _update(self, batch: ScheduledBatch, output: StepOutput) -> list[RequestOutput]:
        start = time.perf_counter()
        outputs = self.scheduler.update(batch, output)
        record = self._record
        record.has_failed = False
        record.forward_s += output.forward_s
        record.sample_s += output.sample_s
        record.update_s += time.perf_counter() - start
        return outputs

    def _count_failure(self, batch: ScheduledBatch) -> None:
        has_prefills = batch.num_decode_sequences < len(batch.sequences)
        self._record.num_failed_prefills += has_prefills
        self._record.num_failed_decodes += not has_prefills

    def _stats(self, step_s: float) -> StepStats:
        scheduler, counts, record = self.scheduler, self.scheduler.counts, self._record
        return StepStats(
            num_running=len(scheduler.running),
            num_waiting=len(scheduler.waiting) + len(scheduler.held),
            num_used_blocks=scheduler.blocks.num_blocks - scheduler.blocks.num_free_blocks,
            num_total_blocks=scheduler.blocks.num_blocks,
            num_scheduled_tokens=counts.num_scheduled_tokens,
            num_prefill_tokens=counts.num_prefill_tokens,
            num_prefill_sequences=counts.num_prefill_sequences,
            num_decode_sequences=counts.num_decode_sequences,
            num_new_sequences=counts.num_new_sequences,
            num_cached_tokens=counts.num_cached_tokens,
            num_queried_tokens=counts.num_queried_tokens,
            num_preemptions=counts.num_preemptions,
            concat_reason=counts.concat_reason,
            num_draft_tokens=counts.num_draft_tokens,
            num_accepted_tokens=counts.num_accepted_tokens,
            num_steps=counts.num_steps,
            num_running_tokens=scheduler.num_running_tokens,
            num_failed_prefills=record.num_failed_prefills,
            num_failed_decodes=record.num_failed_decodes,
            has_failed=record.has_failed,
            end_time=time.monotonic(),
            step_s=step_s,
            schedule_s=record.schedule_s,
            forward_s=record.forward_s,
            sample_s=record.sample_s,
            update_s=record.update_s,
        )


def _halves(batch: ScheduledBatch) -> tuple[ScheduledBatch, ScheduledBatch]:
    """In the batch's order, in which a sequence only shares blocks that are filled by sequences before it."""
    middle = len(batch.sequences) // 2
    num_decodes = min(batch.num_decode_sequences, middle)
    return (
        ScheduledBatch(sequences=batch.sequences[:middle], num_decode_sequences=num_decodes),
        ScheduledBatch(
            sequences=batch.sequences[middle:], num_decode_sequences=batch.num_decode_sequences - num_decodes
        ),
    )
