"""Client and server of this package, over a real port; the engine says the prompt again."""

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import uvicorn
from fakes import FakeRunner
from serving import CHAT_TEMPLATE, INFO, byte_tokenizer, echo, is_boom

from segue.client import AuthenticationError, GenerationError, ValidationError
from segue.core.config import ServeConfig
from segue.engine.config import EngineConfig
from segue.engine.engine import Engine
from segue.engine.local import LocalEngine
from segue.integrations import text_generation
from segue.server.app import build_app
from segue.server.state import ServedModel
from segue.text.chat_template import ChatTemplate

API_KEY = "contract-key"


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    model = ServedModel(
        model_id="test/model",
        tokenizer=byte_tokenizer(tmp_path_factory.mktemp("tokenizer")),
        chat_template=ChatTemplate(CHAT_TEMPLATE, bos_token="<s>", eos_token="</s>"),
    )
    listener = socket.create_server(("127.0.0.1", 0))
    runner = FakeRunner(next_token=echo, fails=is_boom)
    with LocalEngine(Engine(EngineConfig(num_blocks=256, block_size=16), runner), INFO) as engine:
        app = build_app(ServeConfig(api_key=(API_KEY,)), engine, model)
        http = uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False, lifespan="on"))
        thread = threading.Thread(target=lambda: asyncio.run(http.serve(sockets=[listener])), daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        http.should_exit = True
        thread.join()


@pytest.fixture
def client(url: str, make_client: Callable[..., Any]) -> Any:
    made = make_client(url, api_key=API_KEY)
    made.wait_ready(30)
    return made


def test_questions(client: Any) -> None:
    info = client.info()
    assert info.model_id == "test/model"
    assert info.version is not None
    assert client.health()
    assert [model.id for model in client.models.list()] == ["test/model"]
    assert "tgi_request_count" in client.metrics().text
    assert client.tokenize("hé").tokens[1].text == "h"
    assert client.chat_tokenize("hi").templated_text == "<user>hi<assistant>"


def test_generate_and_stream_are_one(client: Any) -> None:
    once = client.generate("say 三🙂", max_new_tokens=40)
    assert once.generated_text == "say 三🙂"
    assert once.finish_reason == "eos_token"
    prompt_tokens = len("say 三🙂".encode()) + 1
    assert (once.usage.prompt_tokens, once.usage.completion_tokens) == (prompt_tokens, prompt_tokens)
    stream = client.generate("say 三🙂", max_new_tokens=40, stream=True)
    assert "".join(stream.text_deltas()) == "say 三🙂"
    assert stream.final().usage == once.usage
    assert stream.final().details.tokens == once.details.tokens


def test_chat_and_completions(client: Any) -> None:
    once = client.chat("hi", max_tokens=6)
    assert once.text == "<user>"
    assert once.usage.completion_tokens == 6
    assert client.chat("hi", max_tokens=6, stream=True).final().text == once.text
    completions = client.completions(["ab", "cd"], max_tokens=2, temperature=0)
    assert [choice.text for choice in completions.choices] == ["ab", "cd"]
    assert client.completions(["ab", "cd"], max_tokens=2, temperature=0, stream=True).final().choices == (
        completions.choices
    )


@pytest.mark.parametrize("stream", [False, True])
def test_errors(client: Any, stream: bool) -> None:
    with pytest.raises(ValidationError, match="`temperature` must be strictly positive"):
        client.generate("x", temperature=-1.0, stream=stream)
    with pytest.raises(GenerationError):
        client.generate("boom", stream=stream, max_retries=0)
    with pytest.raises(AuthenticationError):
        client.generate("x", stream=stream, extra_headers={"authorization": "Bearer wrong"})
    assert client.stats().global_current_requests == 0


def test_leaving_a_stream_ends_the_generation(client: Any) -> None:
    stream = client.generate("endless", stream=True, max_new_tokens=1900)
    stream.close()
    assert client.generate("after", max_new_tokens=10).generated_text == "after"


def test_the_old_packages_client(url: str) -> None:
    with text_generation.Client(url, {"Authorization": f"Bearer {API_KEY}"}) as client:
        assert client.generate("hello", max_new_tokens=10).generated_text == "hello"
        assert "".join(e.token.text for e in client.generate_stream("hi", max_new_tokens=2)) == "hi"
        chunks = client.chat([{"role": "user", "content": "hi"}], stream=True, max_tokens=6)
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "<user>"
