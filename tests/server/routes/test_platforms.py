"""SageMaker, Vertex AI, KServe. Names carry the ids of the acceptance list."""

from collections.abc import Callable
from typing import Any

import pytest
from serving import BOS, EOS, Serving, ids_of, outputs, says

from segue.protocol.platforms import InferenceResponse, VertexResponse

Serve = Callable[..., Serving]

INFER = "/v2/models/m/versions/1/infer"
MESSAGES = [{"role": "user", "content": "hi"}]


def without(reply: Any, *names: str) -> Any:
    return {key: value for key, value in reply.json().items() if key not in ("created", "id", *names)}


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/", {"inputs": "a", "parameters": {"details": True}}),
        ("/", {"inputs": "a", "messages": MESSAGES, "prompt": "b"}),
        ("/v1/chat/completions", {"messages": MESSAGES, "prompt": "b"}),
        ("/v1/chat/completions", {"messages": MESSAGES, "max_tokens": 0}),
        ("/v1/completions", {"prompt": "a"}),
        ("/v1/completions", {"prompt": ["a"] * 9}),
        ("/", {"inputs": ""}),
    ],
)
async def test_R11_invocations_answers_as_the_bodys_route(serve: Serve, path: str, body: dict[str, Any]) -> None:
    app = serve()
    there, here = await app.post(path, body), await app.post("/invocations", body)
    assert here.status_code == there.status_code
    if isinstance(there.json(), list):
        assert here.json()[0]["generated_text"] == there.json()[0]["generated_text"]
    else:
        assert without(here) == without(there)
    assert ("x-prompt-tokens" in here.headers) == ("x-prompt-tokens" in there.headers)


@pytest.mark.parametrize(
    ("body", "first"),
    [
        ({"inputs": "a", "stream": True}, '"index":1'),
        ({"messages": MESSAGES, "stream": True}, "chat.completion.chunk"),
        ({"prompt": "a", "stream": True}, "text_completion"),
    ],
)
async def test_R11_invocations_streams(serve: Serve, body: dict[str, Any], first: str) -> None:
    reply = await serve().post("/invocations", body)
    assert reply.headers["content-type"] == "text/event-stream"
    assert first in reply.text.split("\n\n")[0]


@pytest.mark.parametrize("body", [{}, {"input": "a"}, {"inputs": 1}, {"messages": "a"}, [], 1])
async def test_R11_a_body_of_no_kind(serve: Serve, body: Any) -> None:
    reply = await serve().post("/invocations", body)
    assert reply.status_code == 422
    assert "data did not match any variant of untagged enum SagemakerRequest" in reply.text


async def test_R12_vertex_predictions_in_order(serve: Serve) -> None:
    app = serve(script=lambda request: outputs(request, [*request.prompt_token_ids[1:], EOS]))
    instances = [
        {"inputs": "one", "parameters": {"max_new_tokens": 2, "temperature": 0.5}},
        {"messages": MESSAGES},
        {"inputs": "three"},
    ]
    reply = await app.post("/vertex", {"instances": instances})
    assert reply.json() == {"predictions": ["on", "user>hi<assistant>", "three"]}
    VertexResponse.model_validate_json(reply.content)
    # The instances run side by side: the engine may see them in any order.
    assert sorted(request.sampling.temperature for request in app.engine.requests) == [0.5, 1.0, 1.0]
    assert [request.sampling.do_sample for request in app.engine.requests] == [True, True, True]


async def test_R12_vertex_can_be_greedy(serve: Serve) -> None:
    app = serve()
    await app.post("/vertex", {"instances": [{"inputs": "a", "parameters": {"do_sample": False}}]})
    assert app.engine.requests[0].sampling.do_sample is False


async def test_R12_vertex_refusals(serve: Serve) -> None:
    app = serve(max_concurrent_requests=1)
    reply = await app.post("/vertex", {"instances": []})
    text = "Input validation error"
    assert (reply.status_code, reply.json()) == (422, {"error": text, "error_type": text})
    assert (await app.post("/vertex", {"instances": [{"inputs": ""}]})).status_code == 422
    assert (await app.post("/vertex", {"instances": [{"inputs": "a"}] * 2})).status_code == 429
    assert (await app.post("/vertex", {"instances": [{"inputs": 1}]})).status_code == 422
    assert (await app.post("/vertex", {"instances": [{"inputs": "a"}]})).status_code == 200


async def test_R12_the_routes_that_vertex_names(serve: Serve) -> None:
    app = serve(aip_predict_route="/predict", aip_health_route="/", api_key=("k",))
    body = {"instances": [{"inputs": "a"}]}
    assert (await app.post("/predict", body)).status_code == 401
    reply = await app.post("/predict", body, headers={"authorization": "Bearer k"})
    assert reply.json() == {"predictions": ["hello"]}
    assert (await app.http.get("/", headers={"accept": "text/html"})).content == b""
    assert (await app.post("/predict/x", body)).status_code == 404


async def test_R14_kserve_infer_in_bytes(serve: Serve) -> None:
    app = serve(script=says("héllo"))
    given = {"name": "in", "shape": [1, 2], "datatype": "BYTES", "data": list("hé".encode())}
    reply = await app.post(INFER, {"id": "7", "inputs": [given, given], "outputs": [{"name": "x"}, {"name": "y"}]})
    data = list("héllo".encode())
    expected = [{"name": name, "shape": [1, 6], "datatype": "BYTES", "data": data} for name in "xy"]
    assert reply.json() == {"id": "7", "outputs": expected}
    InferenceResponse.model_validate_json(reply.content)
    assert app.engine.requests[0].prompt_token_ids == (BOS, *ids_of("hé"))
    assert app.engine.requests[0].sampling.do_sample is True


async def test_R14_kserve_infer_in_strings(serve: Serve) -> None:
    given = {"name": "in", "shape": [1], "datatype": "BYTES", "data": ["hi"]}
    body = {"id": "7", "inputs": [given], "outputs": [{"name": "x"}], "parameters": {"max_new_tokens": 2}}
    [output] = (await serve().post(INFER, body)).json()["outputs"]
    assert output == {"name": "x", "shape": [1], "datatype": "BYTES", "data": ["he"]}


@pytest.mark.parametrize(
    ("data", "outputs_", "error_type"),
    [([255], [{"name": "x"}], "utf8"), ([65], [], "length mismatch"), ([], [{"name": "x"}], "validation")],
)
async def test_R14_kserve_refusals(serve: Serve, data: list[int], outputs_: Any, error_type: str) -> None:
    given = {"name": "in", "shape": [1], "datatype": "BYTES", "data": data}
    reply = await serve().post(INFER, {"id": "", "inputs": [given], "outputs": outputs_})
    assert (reply.status_code, reply.json()["error_type"]) == (422, error_type)


async def test_R14_kserve_bytes_that_are_none(serve: Serve) -> None:
    given = {"name": "in", "shape": [1], "datatype": "BYTES", "data": [256]}
    assert (await serve().post(INFER, {"id": "", "inputs": [given], "outputs": []})).status_code == 422


async def test_R14_kserve_states(serve: Serve) -> None:
    http = serve().http
    for path in ("/v2/health/live", "/v2/health/ready", "/v2/models/m/versions/1/ready"):
        assert (await http.get(path)).json() == {"live": True}
    metadata = (await http.get("/v2")).json()
    assert (metadata["name"], metadata["extensions"]) == (
        "text-generation-inference",
        ["health", "models", "metrics"],
    )
    model = (await http.get("/v2/models/m/versions/1")).json()
    assert model == {"name": "m", "version": "1", "extensions": ["infer", "ready"]}
