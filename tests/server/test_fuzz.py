"""Whatever JSON comes, the answer is TGI's: never a 500, never a stream that does not end, never a permit lost."""

import json
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from serving import Serving

from segue.protocol.anthropic import MessagesRequest
from segue.protocol.openai import ChatRequest, CompletionRequest
from segue.protocol.responses import ResponsesRequest
from segue.protocol.tgi import GenerateParameters
from segue.text.tokenizer import Tokenizer

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(min_value=-(2**70), max_value=2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from(["", "a", "é😀", "\x00", "</s>", "tgi", "auto", "none", 0, 1, 2, 0.5, 1.0, -1])
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=8,
)


def objects(names: Any, **likely: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Objects with some of these fields, mostly with values of any kind."""
    fields = {name: likely.get(name, values) | values for name in names}
    return st.fixed_dictionaries({}, optional=fields)


small = st.sampled_from([None, 0, 1, 2, 3])
shares = st.sampled_from([None, 0, 0.1, 0.99, 1, 1.5, 2])
parameters = objects(
    GenerateParameters.model_fields,
    best_of=small,
    max_new_tokens=small,
    top_k=small,
    top_n_tokens=small,
    truncate=small,
    temperature=shares,
    top_p=shares,
    stop=st.lists(st.text(max_size=3), max_size=5),
)
messages = st.lists(
    objects(["role", "content", "tool_calls", "name"], role=st.sampled_from(["user", "assistant"]), content=st.text()),
    max_size=3,
)
requests = (
    st.tuples(
        st.sampled_from(["/", "/generate", "/generate_stream", "/tokenize"]),
        objects(["inputs", "parameters", "stream"], inputs=st.text(), parameters=parameters, stream=st.booleans()),
    )
    | st.tuples(
        st.sampled_from(["/v1/chat/completions", "/chat_tokenize"]),
        objects(ChatRequest.model_fields, messages=messages, stream=st.booleans(), max_tokens=small),
    )
    | st.tuples(
        st.just("/v1/completions"),
        objects(
            CompletionRequest.model_fields,
            prompt=st.text() | st.lists(st.text(), max_size=3) | st.lists(st.integers(0, 300), max_size=3),
            stream=st.booleans(),
            max_tokens=small,
            n=small,
            logprobs=small,
            echo=st.booleans(),
        ),
    )
    | st.tuples(
        st.just("/v1/responses"),
        objects(
            ResponsesRequest.model_fields,
            input=st.text() | messages,
            stream=st.booleans(),
            max_output_tokens=small,
            tools=st.none(),
            previous_response_id=st.none(),
            background=st.none(),
        ),
    )
    | st.tuples(
        st.sampled_from(["/v1/messages", "/v1/messages/count_tokens"]),
        objects(
            MessagesRequest.model_fields,
            messages=messages,
            stream=st.booleans(),
            max_tokens=small,
            stop_sequences=st.lists(st.text(max_size=3), max_size=3),
            tools=st.none(),
        ),
    )
    | st.tuples(
        st.sampled_from(["/invocations", "/vertex", "/v2/models/m/versions/1/infer"]),
        objects(
            ["inputs", "parameters", "instances", "messages", "id", "outputs"],
            inputs=st.lists(objects(["name", "shape", "datatype", "data"]), max_size=2),
            outputs=st.lists(objects(["name"]), max_size=2),
            instances=st.lists(objects(["inputs", "parameters", "messages"], inputs=st.text()), max_size=3),
            id=st.text(max_size=2),
        ),
    )
)


@given(requests)
@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_any_json_gets_an_answer(tokenizer: Tokenizer, request_: tuple[str, Any]) -> None:
    path, body = request_
    app = Serving(tokenizer, max_concurrent_requests=2)
    reply = await app.post(path, body)
    assert reply.status_code in (200, 400, 422, 429), reply.text
    if reply.headers["content-type"] == "text/event-stream":
        events = reply.text.split("\n\n")
        assert events.pop() == ""
        for event in events:
            assert event == "data: [DONE]" or json.loads(event.partition("data: ")[2])
    elif reply.headers["content-type"] == "application/json":
        reply.json()
    else:
        assert reply.status_code in (400, 422)
    both = {"inputs": "a", "parameters": {"best_of": 2, "do_sample": True}}
    assert (await app.post("/generate", both)).status_code == 200


@given(st.binary(max_size=200))
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_any_bytes_get_an_answer(tokenizer: Tokenizer, body: bytes) -> None:
    app = Serving(tokenizer)
    for path in ("/", "/v1/chat/completions", "/v1/completions"):
        reply = await app.http.post(path, content=body, headers={"content-type": "application/json"})
        assert reply.status_code in (400, 422)
