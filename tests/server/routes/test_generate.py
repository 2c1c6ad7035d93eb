"""``/generate``, ``/generate_stream`` and ``/``. Names carry the ids of the acceptance list (R, H, G, V)."""

from collections.abc import Callable

from serving import Serving, says

Serve = Callable[..., Serving]


async def test_R1_generate_gives_one_object_with_the_text_alone(serve: Serve) -> None:
    app = serve(script=says(" world"))
    reply = await app.post("/generate", {"inputs": "hello"})
    assert reply.status_code == 200
    assert reply.headers["content-type"] == "application/json"
    assert reply.json() == {"generated_text": " world"}
    print(reply.headers)
