"""``--speculate`` and ``--speculative-model`` through the whole server: nothing changes but the number of steps."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from e2e.server_process import TIMEOUT_S, ServerProcess, running

ASKS: dict[str, dict[str, Any]] = {
    "greedy": {"max_new_tokens": 40},
    "seeded": {"max_new_tokens": 30, "do_sample": True, "seed": 7, "temperature": 0.7, "repetition_penalty": 1.2},
    "stop string": {"max_new_tokens": 60, "stop": ["e", "\u0120"], "do_sample": True, "seed": 11},
    "top tokens": {"max_new_tokens": 10, "top_n_tokens": 3},
    "watermark": {"max_new_tokens": 20, "watermark": True, "seed": 1},
    "grammar": {"max_new_tokens": 60, "grammar": {"type": "regex", "value": '(\\{"ab": (true|false)\\} ?){3}'}},
}


@pytest.fixture(scope="module")
def guessing(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """Its draft model is the model, so that guesses come true."""
    folder = tmp_path_factory.mktemp("guessing")
    with running(folder, str(model), "--speculate", "5", "--speculative-model", str(model)) as server:
        yield server


def generate(server: ServerProcess, parameters: dict[str, Any]) -> Any:
    body = {"inputs": "the same the same the same", "parameters": {"details": True, **parameters}}
    reply = httpx.post(f"{server.url}/generate", json=body, timeout=TIMEOUT_S)
    assert reply.status_code == 200, reply.text
    return reply.json()


def metric(server: ServerProcess, name: str) -> float:
    lines = httpx.get(f"{server.url}/metrics").text.splitlines()
    [value] = [line.rsplit(" ", 1)[1] for line in lines if line.rsplit(" ", 1)[0] == name]
    return float(value)


@pytest.mark.parametrize("name", ASKS)
def test_S7_the_reply_is_the_same(name: str, server: ServerProcess, guessing: ServerProcess) -> None:
    plain, guessed = generate(server, ASKS[name]), generate(guessing, ASKS[name])
    assert guessed["generated_text"] == plain["generated_text"]
    ids = [[token["id"] for token in reply["details"]["tokens"]] for reply in (plain, guessed)]
    assert ids[0] == ids[1]
    assert guessed["details"]["finish_reason"] == plain["details"]["finish_reason"]
    assert guessed["details"].keys() == plain["details"].keys()
    for ours, theirs in zip(*(_numbers(reply) for reply in (guessed, plain)), strict=True):
        assert ours == pytest.approx(theirs, abs=1e-3)


def _numbers(reply: Any) -> list[dict[int, float]]:
    """Logprobs of each token and of its alternatives: in a step of several tokens their last digits differ."""
    details = reply["details"]
    places = zip(details["tokens"], details.get("top_tokens") or [[]] * len(details["tokens"]), strict=True)
    return [{token["id"]: token["logprob"] for token in (chosen, *others)} for chosen, others in places]


def test_S7_best_of(guessing: ServerProcess) -> None:
    reply = generate(guessing, {"max_new_tokens": 12, "best_of": 2, "do_sample": True})
    sequences = [reply["details"], *reply["details"]["best_of_sequences"]]
    assert [len(each["tokens"]) for each in sequences] == [each["generated_tokens"] for each in sequences]
    assert len(sequences) == 2


def test_S7_each_token_is_an_event_of_its_own(server: ServerProcess, guessing: ServerProcess) -> None:
    body = {"inputs": "a stream", "parameters": {"max_new_tokens": 40, "details": True}}
    events = []
    with httpx.stream("POST", f"{guessing.url}/generate_stream", json=body, timeout=TIMEOUT_S) as reply:
        events = [json.loads(line.removeprefix("data:")) for line in reply.iter_lines() if line]
    assert [event["index"] for event in events] == list(range(1, 41))
    whole = httpx.post(f"{server.url}/generate", json=body, timeout=TIMEOUT_S).json()
    assert [event["token"]["id"] for event in events] == [token["id"] for token in whole["details"]["tokens"]]
    assert events[-1]["generated_text"] == whole["generated_text"]


def test_S7_the_metrics_count_accepted_tokens(guessing: ServerProcess) -> None:
    before = metric(guessing, "tgi_request_skipped_tokens_sum"), metric(guessing, "segue_accepted_draft_tokens_total")
    generate(guessing, {"max_new_tokens": 40})
    assert metric(guessing, "tgi_request_skipped_tokens_sum") - before[0] > 20
    assert metric(guessing, "segue_accepted_draft_tokens_total") - before[1] > 20
    assert metric(guessing, "segue_kv_blocks_used") == 0
