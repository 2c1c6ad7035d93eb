"""Numbers and choices over HTTP: what a tiny Llama says against TGI's formulas, written down a second time."""

import asyncio
import json
import math
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import edit_weights
from contract.live import LiveServer, model_server
from tiny_model import write_tiny_llama
from transformers import AutoModelForCausalLM

PROMPT = "The quick brown fox jumps over the lazy dog. The quick"
NUM_TOKENS = 12
TOLERANCE = {"atol": 2e-4, "rtol": 0}
EVERYTHING = {
    "repetition_penalty": 1.3,
    "frequency_penalty": 0.5,
    "temperature": 0.7,
    "top_k": 60,
    "top_p": 0.9,
    "typical_p": 0.95,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_llama(tmp_path_factory.mktemp("tiny_llama"))


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[LiveServer]:
    with model_server(folder, max_top_n_tokens=10) as running:
        yield running


def raw_logits(folder: Path, prompt_ids: list[int], ids: list[int]) -> torch.Tensor:
    """[len(ids), vocab_size] float64: what each of ``ids`` was chosen from, before any processing."""
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    with torch.inference_mode():
        logits: torch.Tensor = model(torch.tensor([[*prompt_ids, *ids[:-1]]])).logits[0, len(prompt_ids) - 1 :]
    return logits.double()


def processed(logits: torch.Tensor, history: list[int], given: dict[str, Any]) -> torch.Tensor:
    """Log-probabilities [vocab_size] after TGI's steps, in TGI's order."""
    logits = logits.clone()
    seen = sorted(set(history))
    if penalty := given.get("repetition_penalty"):
        logits[seen] = torch.where(logits[seen] < 0, logits[seen] * penalty, logits[seen] / penalty)
    if penalty := given.get("frequency_penalty"):
        logits[seen] -= penalty * torch.tensor([history.count(each) / len(history) for each in seen])
    logits /= given.get("temperature", 1.0)
    if k := given.get("top_k"):
        logits[logits < logits.sort(descending=True).values[k - 1]] = -math.inf
    if p := given.get("top_p"):
        order = logits.argsort()
        is_dropped = logits[order].softmax(-1).cumsum(-1) <= 1 - p
        is_dropped[-1] = False
        logits[order[is_dropped]] = -math.inf
    if mass := given.get("typical_p"):
        logprobs = logits.log_softmax(-1)
        probs = logprobs.exp()
        entropy = -(probs * logprobs.clamp(min=-1e30)).sum()
        order = (-logprobs - entropy).abs().argsort(stable=True)
        num_kept = int((probs[order].cumsum(-1) < mass).sum()) + 1
        logits[order[num_kept:]] = -math.inf
    return logits.log_softmax(-1)


def prompt_ids(server: LiveServer, prompt: str) -> list[int]:
    return [token["id"] for token in server.post("/tokenize", {"inputs": prompt}).json()]


@pytest.mark.parametrize(
    "given",
    [
        {},
        *({name: value} for name, value in EVERYTHING.items()),
        {"frequency_penalty": -1.5},
        {"repetition_penalty": 0.8},
        {"temperature": 2.5},
        {"top_k": 1},
        {"top_p": 0.2},
        {"typical_p": 0.3},
        EVERYTHING,
    ],
    ids=lambda given: "+".join(given) or "nothing",
)
def test_S1_S4_logprobs_by_tgis_formulas(given: dict[str, Any], server: LiveServer, folder: Path) -> None:
    options = {"seed": 11, "do_sample": True, "max_new_tokens": NUM_TOKENS, "top_n_tokens": 5, **given}
    details = server.generate(PROMPT, **options)["details"]
    ids = [token["id"] for token in details["tokens"]]
    history = prompt_ids(server, PROMPT)
    logits = raw_logits(folder, history, ids)
    for row, token, tops in zip(logits, details["tokens"], details["top_tokens"], strict=True):
        expected = processed(row, history, given)
        assert token["logprob"] == pytest.approx(expected[token["id"]].item(), abs=TOLERANCE["atol"])
        best = expected.sort(descending=True).values[:5]
        shown = torch.tensor([top["logprob"] for top in tops], dtype=torch.double)
        torch.testing.assert_close(shown, best[best > -math.inf][: len(shown)], **TOLERANCE)
        assert len(shown) >= int((best > -math.inf).sum())
        history = [*history, token["id"]]


@pytest.mark.parametrize(
    ("given", "is_sampled"),
    [
        ({}, False),
        ({"temperature": 1.0}, False),
        ({"repetition_penalty": 1.2, "frequency_penalty": 0.1}, False),
        ({"seed": 5}, False),
        ({"do_sample": True}, True),
        ({"temperature": 0.7}, True),
        ({"top_k": 200}, True),
        ({"top_p": 0.99}, True),
        ({"typical_p": 0.99}, True),
    ],
    ids=str,
)
def test_S2_what_is_sampled(given: dict[str, Any], is_sampled: bool, server: LiveServer, folder: Path) -> None:
    details = server.generate(PROMPT, max_new_tokens=NUM_TOKENS, **given)["details"]
    assert (details["seed"] is not None) == is_sampled
    history = prompt_ids(server, PROMPT)
    ids = [token["id"] for token in details["tokens"]]
    is_best = []
    for row, token_id in zip(raw_logits(folder, history, ids), ids, strict=True):
        expected = processed(row, history, given)
        is_best.append(bool(expected[token_id] > expected.max() - 1e-4))
        history = [*history, token_id]
    assert all(is_best) != is_sampled


async def test_S3_a_seed_gives_the_same_text_in_any_company(server: LiveServer) -> None:
    body = {"inputs": PROMPT, "parameters": {"do_sample": True, "seed": 7, "max_new_tokens": 30}}
    async with server.client() as client:
        alone = (await client.post("/generate", json=body)).json()
        again = (await client.post("/generate", json=body)).json()
        others = [
            {"inputs": f"{number} " * number, "parameters": {"do_sample": True, "max_new_tokens": 20 + number}}
            for number in range(1, 16)
        ]
        among = await asyncio.gather(
            *(client.post("/generate", json=each) for each in [*others[:8], body, *others[8:]])
        )
        other_seed = {**body, "parameters": {**body["parameters"], "seed": 8}}
        assert (await client.post("/generate", json=other_seed)).json() != alone
    assert alone == again == among[8].json()


def test_S4_ties_are_all_shown(tmp_path: Path) -> None:
    """Every two ids have the same logits: the first of them brings the other along."""
    folder = write_tiny_llama(tmp_path)

    def tie(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        head = weights["lm_head.weight"].clone()
        head[1::2] = head[::2]
        return {**weights, "lm_head.weight": head}

    edit_weights(folder, tie)
    with model_server(folder) as server:
        details = server.generate(PROMPT, max_new_tokens=4, top_n_tokens=1, top_k=1, seed=1)["details"]
    for token, tops in zip(details["tokens"], details["top_tokens"], strict=True):
        assert {top["id"] for top in tops} == {token["id"] // 2 * 2, token["id"] // 2 * 2 + 1}
        # top_k keeps both, so each has half of the probability; with one of them it would be all.
        assert token["logprob"] == pytest.approx(math.log(0.5), abs=1e-5)


def test_S4_one_candidate_is_certain(server: LiveServer) -> None:
    details = server.generate(PROMPT, max_new_tokens=4, top_n_tokens=3, top_k=1)["details"]
    assert [token["logprob"] for token in details["tokens"]] == [0.0] * 4
    # What was filtered out has no finite logprob and is not listed.
    assert {len(tops) for tops in details["top_tokens"]} == {1}


@pytest.mark.parametrize("is_marked", [True, False])
def test_S6_a_watermark_can_be_found(is_marked: bool, server: LiveServer) -> None:
    """The published detector: green tokens are far more frequent than half."""
    options = {"do_sample": True, "seed": 3, "max_new_tokens": 200, "watermark": is_marked}
    details = server.generate(PROMPT, **options)["details"]
    history = [prompt_ids(server, PROMPT)[-1], *(token["id"] for token in details["tokens"])]
    vocab_size, gamma = 260, 0.5
    num_green = 0
    for last, token_id in pairwise(history):
        order = torch.randperm(vocab_size, generator=torch.Generator().manual_seed(15485863 * last))
        num_green += token_id in order[: int(gamma * vocab_size)].tolist()
    num_tokens = len(history) - 1
    z_score = (num_green - gamma * num_tokens) / math.sqrt(num_tokens * gamma * (1 - gamma))
    assert z_score > 6 if is_marked else abs(z_score) < 4


SCHEMA = {
    "properties": {
        "name": {"type": "string", "maxLength": 5},
        "count": {"type": "integer", "minimum": 0, "maximum": 99},
        "kind": {"enum": ["x", "long word", None]},
    },
    "required": ["name", "count", "kind"],
}


@pytest.mark.parametrize("regex", [r"(yes|no|perhaps)", r"[0-9]{3}-[0-9]{4}", r"a{2,6}b?", r"[^x]{1,4}x"])
async def test_S9_regexes_hold_and_end_only_where_they_may(regex: str, server: LiveServer) -> None:
    grammar = {"type": "regex", "value": regex}
    parameters = {"grammar": grammar, "details": True, "do_sample": True, "max_new_tokens": 20}
    bodies = [{"inputs": PROMPT, "parameters": {**parameters, "seed": seed}} for seed in range(6)]
    async with server.client() as client:
        replies = await asyncio.gather(*(client.post("/generate", json=body) for body in bodies))
    for reply in (reply.json() for reply in replies):
        assert reply["details"]["finish_reason"] == "eos_token"
        assert re.fullmatch(regex, reply["generated_text"])


async def test_S9_schemas_hold_in_every_dialect(server: LiveServer) -> None:
    grammar = {"type": "json", "value": SCHEMA}
    messages = [{"role": "user", "content": "hi"}]
    openai = {"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA}}
    sampled = {"seed": 5, "temperature": 1.5}
    generate = {"inputs": PROMPT, "parameters": {"grammar": grammar, "do_sample": True, "seed": 5}}
    chat = {"messages": messages, "response_format": openai, **sampled}
    completion = {"prompt": PROMPT, "response_format": openai, **sampled}
    async with server.client() as client:
        texts = [
            (await client.post("/generate", json=generate)).json()["generated_text"],
            (await client.post("/v1/chat/completions", json=chat)).json()["choices"][0]["message"]["content"],
            (await client.post("/v1/completions", json=completion)).json()["choices"][0]["text"],
        ]
        stream = (await client.post("/generate_stream", json=generate)).text
        events = [json.loads(event.removeprefix("data: ")) for event in stream.split("\n\n")[:-1]]
    assert "".join(event["token"]["text"] for event in events if not event["token"]["special"]) == texts[0]
    assert events[-1]["generated_text"] == texts[0]
    for text in texts:
        answer = json.loads(text)
        assert list(answer) == ["name", "count", "kind"]
        assert len(answer["name"]) <= 5
        assert 0 <= answer["count"] <= 99
        assert answer["kind"] in ("x", "long word", None)


def test_S9_a_length_limit_cuts_what_is_valid_so_far(server: LiveServer) -> None:
    reply = server.generate(PROMPT, grammar={"type": "regex", "value": "[ab]{50}"}, max_new_tokens=7)
    assert reply["details"]["finish_reason"] == "length"
    assert re.fullmatch("[ab]{7}", reply["generated_text"])
