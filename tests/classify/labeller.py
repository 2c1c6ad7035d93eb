"""A model that is a table of answers and their probabilities, behind TGI's routes, with grammars or without."""

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from client.tgi_server import Reply, Seen, error_reply, json_reply

Table = Callable[[str], Mapping[str, float]]
END = "</s>"
TOKEN_SIZE = 3
"""Characters; so that labels share tokens."""


def pieces(text: str) -> list[str]:
    return [text[start : start + TOKEN_SIZE] for start in range(0, len(text), TOKEN_SIZE)]


def says(answer: str) -> Table:
    return lambda _: {answer: 1.0}


@dataclass
class Labeller:
    """A handler of ``TgiServer``. ``table`` gets the whole prompt, or the last message of a chat."""

    table: Table
    has_grammar: bool = True
    max_input_tokens: int = 10_000
    max_top_n_tokens: int = 5

    def __call__(self, seen: Seen) -> Reply:
        match seen.path:
            case "/generate":
                return self._generate(seen.body["inputs"], seen.parameters)
            case "/v1/chat/completions":
                return self._chat(seen.body)
            case "/tokenize":
                return json_reply(_spans(seen.body["inputs"]))
            case "/chat_tokenize":
                templated = _templated(seen.body)
                return json_reply({"tokenize_response": _spans(templated), "templated_text": templated})
            case "/info":
                return json_reply(
                    {"model_id": "table", "max_input_tokens": self.max_input_tokens, "max_total_tokens": 10**6}
                )
        return Reply(404)

    def _generate(self, prompt: str, parameters: Mapping[str, Any]) -> Reply:
        num_top = parameters.get("top_n_tokens") or 0
        if refusal := self._refuse(prompt, parameters.get("grammar"), num_top):
            return refusal
        steps = list(self._steps(prompt, parameters.get("grammar"), parameters.get("max_new_tokens", 20), num_top))
        body: dict[str, Any] = {"generated_text": "".join(chosen for chosen, _, _ in steps if chosen != END)}
        if parameters.get("details"):
            body["details"] = {
                "finish_reason": "eos_token",
                "generated_tokens": len(steps),
                "tokens": [_token(chosen, probability) for chosen, probability, _ in steps],
                "top_tokens": [[_token(*each) for each in top] for _, _, top in steps],
            }
        return json_reply(body)

    def _chat(self, body: Mapping[str, Any]) -> Reply:
        grammar, num_top = body.get("response_format"), body.get("top_logprobs") or 0
        if refusal := self._refuse(_templated(body), grammar, num_top):
            return refusal
        prompt = body["messages"][-1]["content"]
        steps = list(self._steps(prompt, grammar, body.get("max_tokens", 20), num_top))
        logprobs = [
            {
                "token": chosen,
                "logprob": math.log(p),
                "top_logprobs": [{"token": t, "logprob": math.log(q)} for t, q in top],
            }
            for chosen, p, top in steps
        ]
        message = {"role": "assistant", "content": "".join(chosen for chosen, _, _ in steps if chosen != END)}
        choice = {
            "index": 0,
            "message": message,
            "finish_reason": "stop",
            "logprobs": body.get("logprobs") and {"content": logprobs},
        }
        return json_reply({"id": "", "created": 1, "model": "table", "choices": [choice]})

    def _refuse(self, prompt: str, grammar: Any, num_top: int) -> Reply | None:
        if num_top > self.max_top_n_tokens:
            return _invalid(f"`top_n_tokens` must be >= 0 and <= {self.max_top_n_tokens}. Given: {num_top}")
        if (num_tokens := len(pieces(prompt))) > self.max_input_tokens:
            return _invalid(f"`inputs` must have less than {self.max_input_tokens} tokens. Given: {num_tokens}")
        return None if grammar is None or self.has_grammar else _invalid("grammar is not supported")

    def _steps(
        self, prompt: str, grammar: Any, limit: int, num_top: int
    ) -> Iterator[tuple[str, float, list[tuple[str, float]]]]:
        """(chosen token, its probability, the likeliest tokens): greedy, over the answers that the grammar admits."""
        answers = {(*pieces(answer), END): p for answer, p in self.table(prompt).items() if _admits(grammar, answer)}
        path: tuple[str, ...] = ()
        while len(path) < limit and path[-1:] != (END,):
            nexts: dict[str, float] = {}
            for answer, p in answers.items():
                if answer[: len(path)] == path:
                    nexts[answer[len(path)]] = nexts.get(answer[len(path)], 0.0) + p
            total = sum(nexts.values())
            ranked = sorted(((token, p / total) for token, p in nexts.items()), key=lambda each: -each[1])
            yield *ranked[0], ranked[:num_top]
            path = (*path, ranked[0][0])


def _admits(grammar: Any, answer: str) -> bool:
    return grammar is None or re.fullmatch(grammar["value"], answer) is not None


def _token(text: str, probability: float) -> dict[str, Any]:
    return {"id": sum(map(ord, text)), "text": text, "logprob": math.log(probability), "special": text == END}


def _templated(body: Mapping[str, Any]) -> str:
    return "".join(f"<{message['role']}>{message['content']}" for message in body["messages"])


def _spans(text: str) -> list[dict[str, Any]]:
    starts = range(0, len(text), TOKEN_SIZE)
    spans = [{"id": 7, "text": p, "start": s, "stop": s + len(p)} for s, p in zip(starts, pieces(text), strict=True)]
    return [*spans, {"id": 1, "text": END, "start": 0, "stop": 0}]


def _invalid(text: str) -> Reply:
    return error_reply(422, "validation", f"Input validation error: {text}")
