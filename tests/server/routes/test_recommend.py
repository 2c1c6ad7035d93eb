"""``GET /api/integrations/tgi/v1/provider/{provider}/recommend``: the documented answer, and what may be asked."""

from collections.abc import Callable

from serving import Serving

from segue.core.errors import ConfigError
from segue.core.memory_plan import ModelDescription

Serve = Callable[..., Serving]
PATH = "/api/integrations/tgi/v1/provider/gcp/recommend"
GEMMA_7B = {
    "model_type": "gemma",
    "vocab_size": 256000,
    "hidden_size": 3072,
    "intermediate_size": 24576,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 16,
    "head_dim": 256,
    "max_position_embeddings": 8192,
}


def _describe(model_id: str) -> ModelDescription:
    if model_id != "google/gemma-7b-it":
        raise ConfigError(f"nothing is known of '{model_id}'")
    return ModelDescription(model_id=model_id, config=GEMMA_7B)


async def test_the_published_answer(serve: Serve) -> None:
    app = serve(describe=_describe)
    reply = await app.http.get(PATH, params={"model_id": "google/gemma-7b-it", "gpu_memory": 24, "num_gpus": 1})
    assert reply.status_code == 200
    body = reply.json()
    assert (body["model_id"], body["instance"]) == ("google/gemma-7b-it", "g2-standard-4")
    assert body["configuration"]["estimated_memory_in_gigabytes"] == 22.77


async def test_an_unknown_model_is_a_clear_error(serve: Serve) -> None:
    reply = await serve(describe=_describe).http.get(PATH, params={"model_id": "../etc"})
    assert (reply.status_code, reply.json()) == (400, {"error": "nothing is known of '../etc'"})


async def test_an_unknown_provider(serve: Serve) -> None:
    reply = await serve(describe=_describe).http.get(PATH.replace("gcp", "moon"), params={"model_id": "x"})
    assert reply.status_code == 422


async def test_the_key_is_asked_for(serve: Serve) -> None:
    """Whoever asks makes the server look models up."""
    app = serve(describe=_describe, api_key=("secret",))
    assert (await app.http.get(PATH, params={"model_id": "google/gemma-7b-it"})).status_code == 401
