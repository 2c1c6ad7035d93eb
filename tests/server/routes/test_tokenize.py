from collections.abc import Callable

from serving import BOS, Serving, ids_of

from segue.protocol.tgi import TokenizeResponse

Serve = Callable[..., Serving]


async def test_R6_offsets_count_bytes(serve: Serve) -> None:
    reply = await serve().post("/tokenize", {"inputs": "né!", "parameters": {"truncate": 1}})
    n, first, second, mark = ids_of("né!")
    assert reply.json() == [
        {"id": BOS, "text": "", "start": 0, "stop": 0},
        {"id": n, "text": "n", "start": 0, "stop": 1},
        {"id": first, "text": "é", "start": 1, "stop": 3},
        {"id": second, "text": "é", "start": 1, "stop": 3},
        {"id": mark, "text": "!", "start": 3, "stop": 4},
    ]
    TokenizeResponse.model_validate_json(reply.content)


async def test_R6_nothing_is_generated(serve: Serve) -> None:
    app = serve()
    await app.post("/tokenize", {"inputs": "a" * 1000})
    assert app.engine.requests == []
