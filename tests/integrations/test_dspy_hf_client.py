"""HFClientTGI needs no DSPy."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from client.tgi_server import Reply, Seen, TgiServer, error_reply, json_reply, text, tgi

from segue.client import APIConnectionError
from segue.integrations.dspy import HFClientTGI, TGIResponseError


def strict(seen: Seen) -> Reply:
    """TGI with max_best_of 2: refuses what it would refuse."""
    if seen.method == "POST":
        assert set(seen.body) == {"inputs", "parameters"}
        if (seen.parameters.get("best_of") or 1) > 2:
            return error_reply(422, "validation", "`best_of` must be > 0 and <= 2")
        sampling = seen.parameters.get("do_sample") or "temperature" in seen.parameters
        if (seen.parameters.get("best_of") or 1) > 1 and not sampling:
            return error_reply(422, "validation", "you must use sampling when `best_of` is > 1")
    return tgi(seen)


@pytest.fixture
def server() -> Iterator[TgiServer]:
    with TgiServer(strict) as running:
        yield running


@pytest.fixture
def make(server: TgiServer) -> Iterator[Callable[..., HFClientTGI]]:
    made: list[HFClientTGI] = []

    def new(**settings: Any) -> HFClientTGI:
        client = HFClientTGI("m", server.port, **{"url": "http://127.0.0.1", **settings})
        made.append(client)
        return client

    yield new
    for client in made:
        client.close()


def test_23_sends_no_port_url_or_model(make: Callable[..., HFClientTGI], server: TgiServer) -> None:
    assert make()("hi", max_tokens=2) == [text(2)]
    assert server.posts[0].body == {
        "inputs": "hi",
        "parameters": {"do_sample": False, "max_new_tokens": 2, "stop": ["\n", "\n\n"], "details": True},
    }
    assert server.posts[0].path == "/generate"


def test_23_n_above_the_servers_best_of_is_served_by_several_requests(
    make: Callable[..., HFClientTGI], server: TgiServer
) -> None:
    client = make()
    assert len(client("hi", n=5, temperature=0.7)) == 5
    assert [seen.parameters.get("best_of") for seen in server.posts] == [2, 2, None]
    assert len(client("hi", n=2)) == 2
    assert server.posts[-1].parameters["do_sample"] is True
    assert server.posts[-1].parameters["temperature"] == 0.1
    assert len([seen for seen in server.requests if seen.path == "/info"]) == 1


def test_n_where_info_is_missing(make: Callable[..., HFClientTGI], server: TgiServer) -> None:
    server.handler = lambda seen: Reply(404) if seen.path == "/info" else strict(seen)
    assert len(make()("hi", n=3, temperature=1.0)) == 3
    assert len(server.posts) == 3


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        ({"temperature": 0}, {"do_sample": False}),
        ({"temperature": 0.05, "top_p": 0.5, "top_k": 3}, {"do_sample": False}),
        ({"temperature": 0.7}, {"do_sample": True, "temperature": 0.7, "top_p": 0.97}),
        ({"temperature": 0, "do_sample": True}, {"do_sample": True, "temperature": 0.1, "top_p": 0.97}),
        ({"frequency_penalty": 1.5}, {"do_sample": False, "frequency_penalty": 1.5}),
        ({"max_tokens": 9, "seed": 1}, {"do_sample": False, "max_new_tokens": 9, "seed": 1}),
        ({"stop": ["a", "b", "a"]}, {"do_sample": False, "stop": ["a", "b"]}),
        ({"stop": "a"}, {"do_sample": False, "stop": ["a"]}),
        ({"presence_penalty": 0}, {"do_sample": False}),
    ],
)
def test_parameters(
    make: Callable[..., HFClientTGI], server: TgiServer, given: dict[str, Any], sent: dict[str, Any]
) -> None:
    """Temperature 0 is greedy: the original raised it to 0.1 and sent top_p, so that TGI sampled."""
    make()("hi", **given)
    defaults = {"max_new_tokens": 75, "stop": ["\n", "\n\n"], "details": True}
    assert server.posts[0].parameters == {**defaults, **sent}


def test_what_tgi_has_no_word_for_is_refused(make: Callable[..., HFClientTGI], server: TgiServer) -> None:
    client = make()
    with pytest.raises(ValueError, match="no presence_penalty"):
        client("hi", presence_penalty=0.5)
    with pytest.raises(TypeError, match="unknown argument 'no_such'"):
        client("hi", no_such=1)
    with pytest.raises(TypeError, match="unknown http_request_kwargs 'proxy'"):
        make(http_request_kwargs={"proxy": "x"})
    with pytest.raises(ValueError, match="not supported"):
        client("hi", return_sorted=True)
    assert server.posts == []


def test_headers_and_key_and_the_callers_mapping_is_left_alone(
    make: Callable[..., HFClientTGI], server: TgiServer
) -> None:
    given = {"headers": {"X-Team": "a"}, "timeout": (3, 9)}
    make(http_request_kwargs=given, api_key="k")("hi")
    assert given == {"headers": {"X-Team": "a"}, "timeout": (3, 9)}
    assert server.posts[0].headers["x-team"] == "a"
    assert server.posts[0].key == "k"


def test_several_ports_and_one_is_down(server: TgiServer) -> None:
    with TgiServer(strict) as other, TgiServer() as gone:
        ports = [gone.port, server.port, other.port]
        gone.stop()
        client = HFClientTGI("m", ports, url="http://127.0.0.1/")
        for _ in range(8):
            assert client("hi") == [text(75)]
        assert len(server.posts) > 1
        assert len(other.posts) > 1
        client.close()


def test_errors_keep_the_old_text_and_tell_the_status(make: Callable[..., HFClientTGI], server: TgiServer) -> None:
    server.replies.append(error_reply(422, "validation", "too long"))
    with pytest.raises(Exception, match=r"Received invalid JSON response from server: too long") as caught:
        make()("hi")
    assert isinstance(caught.value, TGIResponseError)
    assert caught.value.status_code == 422
    server.replies.append(Reply(pieces=(b"<html>",)))
    with pytest.raises(TGIResponseError) as unreadable:
        make()("hi")
    assert unreadable.value.status_code is None
    server.stop()
    with pytest.raises(APIConnectionError):
        make(max_retries=0)("hi")


def test_an_overloaded_server_is_asked_again(make: Callable[..., HFClientTGI], server: TgiServer) -> None:
    server.replies.append(error_reply(429, "overloaded", retry_after="0.05"))
    assert make()("hi") == [text(75)]
    assert len(server.posts) == 2


def test_24_the_cache_never_stores_an_error_and_never_a_sample(
    make: Callable[..., HFClientTGI], server: TgiServer
) -> None:
    """The original cached errors on disk, and repeated one sample for ever."""
    cache: dict[str, Any] = {}
    client = make(cache=cache)
    server.replies.append(error_reply(422, "validation"))
    with pytest.raises(TGIResponseError):
        client("hi")
    assert cache == {}
    assert client("hi") == client("hi") == [text(75)]
    assert len(server.posts) == 2
    client("hi", max_tokens=3)
    client("ho")
    assert len(server.posts) == 4
    for _ in range(2):
        client("hi", temperature=0.9)
        client("hi", n=2)
    assert len(server.posts) == 8
    assert len(cache) == 3


def test_history(make: Callable[..., HFClientTGI], capsys: pytest.CaptureFixture[str]) -> None:
    client = make()
    client("first", max_tokens=1)
    response = client.request("second", max_tokens=2)
    assert response == {"prompt": "second", "choices": [{"text": text(2)}]}
    assert client.history[1]["raw_kwargs"] == {"max_tokens": 2}
    assert client.history[1]["kwargs"]["temperature"] == 0.01
    assert client.inspect_history(1) == f"second{text(2)}"
    assert capsys.readouterr().out == f"second{text(2)}\n"
    assert client.inspect_history(1, skip=1) == f"first{text(1)}"


def test_copy(make: Callable[..., HFClientTGI], server: TgiServer) -> None:
    """The original's copy lost http_request_kwargs."""
    client = make(http_request_kwargs={"headers": {"X-Team": "a"}})
    client("hi")
    copied = client.copy(temperature=0.9, max_tokens=2)
    assert copied("hi") == [text(2)]
    assert server.posts[1].parameters["temperature"] == 0.9
    assert server.posts[1].headers["x-team"] == "a"
    assert (len(client.history), len(copied.history)) == (1, 1)
    assert client.kwargs["max_tokens"] == 75
    with TgiServer(lambda seen: json_reply({"generated_text": "elsewhere"})) as other:
        moved = client.copy(port=other.port)
        assert moved("hi") == ["elsewhere"]
        assert other.posts[0].headers["x-team"] == "a"
        moved.close()


def test_importing_does_not_import_dspy() -> None:
    code = "import segue.integrations.dspy, sys; print([m for m in ('dspy', 'litellm', 'torch') if m in sys.modules])"
    source = Path(__file__).parents[2] / "src"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=source, check=True)
    assert result.stdout.strip() == "[]"
