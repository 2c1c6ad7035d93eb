"""Sequences that wait for their grammars: they hold up nobody, and take their place when they are ready."""

import asyncio
import multiprocessing
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from weakref import WeakValueDictionary

from fakes import FakeRunner, engine_info, expected_tokens, make_request

from segue.core.grammar import Grammar
from segue.core.output import RequestOutput
from segue.core.request import Request, SamplingParams
from segue.engine.config import EngineConfig
from segue.engine.engine import Engine
from segue.engine.engine_process import run_engine_loop
from segue.engine.ipc import decode, encode
from segue.engine.local import LocalEngine
from segue.engine.remote import RemoteEngine

CONFIG = EngineConfig(num_blocks=64, block_size=4)


class Prepared:
    def __init__(self) -> None:
        self.is_ready = False
        self.error: str | None = None


@dataclass
class ManualGrammars:
    """Compiles when it is told to."""

    on_ready: Callable[[], None] = lambda: None
    prepared: WeakValueDictionary[str, Prepared] = field(default_factory=WeakValueDictionary)

    def prepare(self, grammar: Grammar) -> Prepared:
        prepared = self.prepared.get(grammar.source)
        if prepared is None:
            prepared = self.prepared[grammar.source] = Prepared()
        return prepared

    def finish(self, source: str, error: str | None = None) -> None:
        prepared = self.prepared[source]
        prepared.error = error
        prepared.is_ready = True
        self.on_ready()


def request(request_id: int, source: str | None = None, **options: object) -> Request:
    sampling = SamplingParams(grammar=None if source is None else Grammar("regex", source))
    return make_request(request_id, sampling=sampling, **options)  # type: ignore[arg-type]


def make_engine(config: EngineConfig = CONFIG, num_tokens: int = 1) -> tuple[Engine, ManualGrammars, FakeRunner]:
    grammars, runner = ManualGrammars(), FakeRunner(block_size=config.block_size, num_tokens=num_tokens)
    return Engine(config, runner, grammars), grammars, runner


def run(engine: Engine) -> dict[int, list[RequestOutput]]:
    outputs: dict[int, list[RequestOutput]] = {}
    while engine.has_work:
        step = engine.step()
        engine.scheduler.check_invariants()
        for output in step.outputs if step else ():
            outputs.setdefault(output.request_id, []).append(output)
    return outputs


def tokens(outputs: list[RequestOutput]) -> list[int]:
    return [token.token_id for output in outputs for token in output.tokens]


def test_others_run_while_a_grammar_is_compiled() -> None:
    engine, grammars, _ = make_engine()
    engine.add(request(1, "slow"))
    engine.add(request(2))
    engine.add(request(3, "slow"))
    assert tokens(run(engine)[2]) == expected_tokens((1, 2, 3), 4)
    assert not engine.has_work, "a loop would turn for nothing"
    assert engine.step() is None
    grammars.finish("slow")
    assert engine.has_work
    outputs = run(engine)
    assert set(outputs) == {1, 3}
    assert tokens(outputs[1]) == expected_tokens((1, 2, 3), 4)


def test_a_sequence_takes_its_place_by_age() -> None:
    engine, grammars, runner = make_engine(EngineConfig(num_blocks=64, block_size=4, max_batch_size=1))
    engine.add(request(1, "late"))
    engine.add(request(2))
    engine.add(request(3))
    engine.step()
    grammars.finish("late")
    run(engine)
    order = list(dict.fromkeys(s.seq_id for batch in runner.batches for s in batch.sequences))
    assert order == [1, 0, 2]


def test_a_grammar_that_cannot_be_used_fails_its_requests_alone() -> None:
    engine, grammars, _ = make_engine()
    engine.add(request(1, "bad"))
    engine.add(request(2, "good"))
    grammars.finish("bad", "unclosed group")
    grammars.finish("good")
    outputs = run(engine)
    assert [output.error for output in outputs[1]] == ["grammar is not valid: unclosed group"]
    assert tokens(outputs[2]) == expected_tokens((1, 2, 3), 4)
    assert engine.scheduler.blocks.num_free_blocks == CONFIG.num_blocks


def test_an_abort_drops_the_grammar_too() -> None:
    engine, grammars, _ = make_engine()
    engine.add(request(1, "unwanted"))
    engine.step()
    engine.abort([1])
    assert "unwanted" not in grammars.prepared
    assert run(engine) == {}
    engine.scheduler.check_invariants()


def test_a_grammar_is_held_until_its_last_sequence_ends() -> None:
    engine, grammars, _ = make_engine()
    engine.add(request(1, "kept", max_new_tokens=2))
    grammars.finish("kept")
    while engine.scheduler.running or engine.scheduler.waiting or engine.scheduler.held:
        assert "kept" in grammars.prepared
        engine.step()
    assert "kept" not in grammars.prepared


def test_without_a_compiler_grammars_are_refused() -> None:
    engine = Engine(CONFIG, FakeRunner(block_size=4))
    engine.add(request(1, "x"))
    assert [output.error for output in run(engine)[1]] == ["grammar is not supported"]


def test_held_sequences_count_as_waiting() -> None:
    engine, _, _ = make_engine()
    engine.add(request(1, "slow"))
    step = engine.step()
    assert step is not None
    assert (step.stats.num_waiting, step.stats.num_running) == (1, 0)


def test_preempted_sequences_need_no_second_compilation() -> None:
    engine, grammars, runner = make_engine(EngineConfig(num_blocks=10, block_size=2), num_tokens=3)
    prompts = [(request_id, 8, 9) for request_id in range(4)]
    for request_id, prompt in enumerate(prompts):
        engine.add(request(request_id, "g" if request_id % 2 else None, prompt=prompt, max_new_tokens=12))
    grammars.finish("g")
    outputs = run(engine)
    for request_id, prompt in enumerate(prompts):
        assert tokens(outputs[request_id]) == expected_tokens(prompt, 12)
    starts = [s.seq_id for batch in runner.batches for s in batch.sequences if s.num_computed_tokens == 0]
    assert len(starts) > len(set(starts)), "nothing was preempted"


def test_several_tokens_of_a_step_are_computed_as_one_chunk() -> None:
    engine, grammars, runner = make_engine(num_tokens=3)
    engine.add(request(1, "g", max_new_tokens=7))
    grammars.finish("g")
    assert tokens(run(engine)[1]) == expected_tokens((1, 2, 3), 7)
    assert [len(batch.sequences[0].token_ids) for batch in runner.batches] == [3, 3, 3]


async def test_a_thread_that_waits_is_woken() -> None:
    engine, grammars, _ = make_engine()
    with LocalEngine(engine, engine_info(CONFIG)) as local:
        stream = local.submit(request(1, "slow"))
        first = asyncio.ensure_future(anext(stream))
        async with asyncio.timeout(20):
            while "slow" not in grammars.prepared:  # noqa: ASYNC110
                await asyncio.sleep(0)
            grammars.finish("slow")
            assert (await first).tokens


def test_over_the_socket() -> None:
    sent = request(1, 'a"\\é')
    assert decode(bytes(encode(sent))) == sent


def serve_engine_with_slow_grammars(endpoint: str) -> None:
    """The body of an engine process that compiles every grammar 0.2 s after it was asked to."""
    engine, grammars, _ = make_engine()
    prepare = grammars.prepare

    def prepare_and_finish(grammar: Grammar) -> Prepared:
        prepared = prepare(grammar)
        threading.Timer(0.2, lambda: grammars.finish(grammar.source)).start()
        return prepared

    grammars.prepare = prepare_and_finish  # type: ignore[method-assign]
    run_engine_loop(engine, engine_info(CONFIG), endpoint)


async def test_a_process_that_waits_is_woken(tmp_path: Path) -> None:
    endpoint = f"ipc://{tmp_path}/engine"
    process = multiprocessing.get_context("fork").Process(target=serve_engine_with_slow_grammars, args=(endpoint,))
    process.start()
    remote = RemoteEngine(endpoint)
    try:
        async with asyncio.timeout(60):
            await remote.connect()
            stream = remote.submit(request(remote.next_request_id(), "slow"))
            got = [token.token_id async for output in stream for token in output.tokens]
        assert got == expected_tokens((1, 2, 3), 4)
    finally:
        await remote.close()
        process.kill()
        process.join()
