"""``--waiting-served-ratio`` and ``--max-waiting-tokens`` where prompts are not cut in chunks."""

from fakes import FakeRunner, expected_tokens, make_request

from segue.core.batch import ScheduledBatch
from segue.engine.config import EngineConfig
from segue.engine.engine import Engine
from segue.engine.prefill_policy import PrefillPolicy
from segue.engine.scheduler import Scheduler


def test_Q4_enough_must_wait() -> None:
    policy = PrefillPolicy(waiting_served_ratio=1.2, max_waiting_tokens=100)
    policy.decoded()
    assert policy.reason_to_admit(num_waiting=11, num_running=10) is None
    assert policy.reason_to_admit(num_waiting=12, num_running=10) == "backpressure"
    assert policy.reason_to_admit(num_waiting=0, num_running=0) is None


def test_Q4_or_generation_went_on_for_long_enough() -> None:
    policy = PrefillPolicy(waiting_served_ratio=5.0, max_waiting_tokens=3)
    reasons = []
    for _ in range(4):
        reasons.append(policy.reason_to_admit(num_waiting=1, num_running=10))
        policy.decoded()
    assert reasons == [None, None, None, "wait_exceeded"]
    policy.admitted()
    assert policy.reason_to_admit(num_waiting=100, num_running=10) is None


class Recorder:
    """Runs an engine without chunking on a fake runner, and keeps each step's shape."""

    def __init__(self, **config: float) -> None:
        self.engine = Engine(
            EngineConfig(num_blocks=200, block_size=4, prefill_chunking=False, **config),  # type: ignore[arg-type]
            FakeRunner(block_size=4),
        )
        self.reasons: list[str | None] = []
        self.kinds: list[str] = []

    def step(self) -> None:
        step = self.engine.step()
        assert step is not None
        stats = step.stats
        assert stats.num_prefill_sequences == 0 or stats.num_decode_sequences == 0, "a step mixes both"
        self.kinds.append("prefill" if stats.num_prefill_sequences else "decode")
        self.reasons.append(stats.concat_reason)
        self.engine.scheduler.check_invariants()


def test_Q4_steps_read_prompts_or_generate() -> None:
    recorder = Recorder(waiting_served_ratio=5.0, max_waiting_tokens=3, max_batch_prefill_tokens=64)
    recorder.engine.add(make_request(0, range(20), max_new_tokens=30))
    recorder.step()
    recorder.engine.add(make_request(1, range(50, 60), max_new_tokens=30))
    for _ in range(5):
        recorder.step()
    assert recorder.kinds == ["prefill", "decode", "decode", "decode", "prefill", "decode"]
    assert recorder.reasons == [None, None, None, None, "wait_exceeded", None]


def test_Q4_a_low_ratio_lets_prompts_in_after_one_step() -> None:
    recorder = Recorder(waiting_served_ratio=0.5, max_waiting_tokens=100, max_batch_prefill_tokens=64)
    recorder.engine.add(make_request(0, range(20), max_new_tokens=30))
    recorder.step()
    recorder.engine.add(make_request(1, range(50, 60), max_new_tokens=30))
    for _ in range(3):
        recorder.step()
    assert recorder.kinds == ["prefill", "decode", "prefill", "decode"]
    assert recorder.reasons == [None, None, "backpressure", None]


def shapes(batch: ScheduledBatch | None) -> list[int]:
    assert batch is not None
    return [len(s.token_ids) for s in batch.sequences]


def test_Q4_prompts_stay_whole() -> None:
    """With chunking the third would be cut to fill the budget."""
    scheduler = Scheduler(
        EngineConfig(num_blocks=200, block_size=4, max_batch_prefill_tokens=32, prefill_chunking=False)
    )
    for i in range(3):
        scheduler.add(make_request(i, range(100 * i, 100 * i + 14)))
    assert shapes(scheduler.schedule()) == [14, 14]


def test_Q4_every_request_comes_to_its_end() -> None:
    recorder = Recorder(waiting_served_ratio=9.0, max_waiting_tokens=4, max_batch_prefill_tokens=24)
    requests = [make_request(i, range(30 * i, 30 * i + 5 + i), max_new_tokens=6 + i) for i in range(8)]
    for request in requests:
        recorder.engine.add(request)
    tokens: dict[int, list[int]] = {}
    while (step := recorder.engine.step()) is not None:
        for output in step.outputs:
            tokens.setdefault(output.request_id, []).extend(token.token_id for token in output.tokens)
    assert tokens == {
        request.request_id: expected_tokens(request.prompt_token_ids, request.stop.max_new_tokens)
        for request in requests
    }
