import pytest

from segue.client import Client, Endpoint
from segue.client._environment import read_environment
from segue.client._urls import Dialect, Urls


def test_numbered_keys_are_endpoints_of_their_own() -> None:
    variables = {
        "TGI_BASE_URL": "http://tgi:80",
        "HF_API_KEY_1": "k1",
        "HF_MODEL_ID_1": "m1",
        "HF_API_KEY_2": "k2",
        "HF_API_KEY_4": "after a gap",
        "HF_MODEL_ID": "m",
    }
    endpoints = read_environment(variables).endpoints()
    assert [(e.url, e.api_key, e.model) for e in endpoints] == [
        ("http://tgi:80", "k1", "m1"),
        ("http://tgi:80", "k2", "m"),
    ]


def test_keys_alone_go_to_the_hosted_api() -> None:
    [endpoint] = read_environment({"HF_API_KEY": "k", "HF_MODEL_ID": "org/m"}).endpoints()
    assert endpoint.url == "https://api-inference.huggingface.co"
    assert (endpoint.api_key, endpoint.model) == ("k", "org/m")
    assert read_environment({"HF_API_KEY": "k"}).endpoints() == []


@pytest.mark.parametrize(
    ("variables", "key"),
    [
        ({"TGI_API_KEY": "a", "HF_API_KEY": "b"}, "a"),
        ({"HF_API_KEY": "b", "HF_API_TOKEN": "c", "HF_TOKEN": "d"}, "b"),
        ({"HF_API_TOKEN": "c", "HF_TOKEN": "d"}, "c"),
        ({"HF_API_KEY": "", "HF_API_TOKEN": "c"}, "c"),
        ({}, None),
    ],
)
def test_which_key(variables: dict[str, str], key: str | None) -> None:
    client = Client("http://anywhere.example", environment=variables)
    assert client.pool.get("anywhere.example").api_key == key
    client.close()


@pytest.mark.parametrize(
    ("url", "is_given"),
    [
        ("https://api-inference.huggingface.co/models/m", True),
        ("https://x.us-east-1.aws.endpoints.huggingface.cloud", True),
        ("https://me-app.hf.space", True),
        ("http://127.0.0.1:8080", True),
        ("http://localhost", True),
        ("https://huggingface.co.evil.example", False),
        ("https://evilhuggingface.co", False),
        ("http://tgi.example", False),
    ],
)
def test_the_ambient_token_goes_to_hugging_face_and_this_machine_only(url: str, is_given: bool) -> None:
    assert read_environment({"HF_TOKEN": "t"}).key_for(url) == ("t" if is_given else None)


def test_an_explicit_key_wins_and_an_empty_one_means_none() -> None:
    for given, sent in (("mine", "mine"), ("", "")):
        client = Client("http://h", api_key=given, environment={"TGI_API_KEY": "theirs"})
        assert client.pool.get("h").api_key == sent
        client.close()


def test_nowhere_to_go() -> None:
    with pytest.raises(ValueError, match="no endpoint: pass base_url or endpoints, or set TGI_BASE_URL"):
        Client(environment={})


def test_ways_to_say_where_exclude_each_other() -> None:
    with pytest.raises(TypeError, match="exclude each other"):
        Client("http://a", endpoints=["http://b"], environment={})
    with pytest.raises(TypeError, match="each Endpoint has its own"):
        Client(endpoints=["http://b"], api_key="k", environment={})
    with pytest.raises(TypeError, match="has its own api_key"):
        Client(Endpoint("http://b"), api_key="k", environment={})


@pytest.mark.parametrize(
    ("base", "generate", "chat"),
    [
        ("http://h:1", "http://h:1/generate", "http://h:1/v1/chat/completions"),
        ("http://h:1/", "http://h:1/generate", "http://h:1/v1/chat/completions"),
        ("http://h:1/generate", "http://h:1/generate", "http://h:1/v1/chat/completions"),
        ("http://h:1/generate_stream/", "http://h:1/generate", "http://h:1/v1/chat/completions"),
        ("http://h:1/v1", "http://h:1/generate", "http://h:1/v1/chat/completions"),
        ("http://h:1/v1/chat/completions", "http://h:1/generate", "http://h:1/v1/chat/completions"),
        ("http://h/proxy/tgi", "http://h/proxy/tgi/generate", "http://h/proxy/tgi/v1/chat/completions"),
        ("http://h/tgi?code=7", "http://h/tgi/generate?code=7", "http://h/tgi/v1/chat/completions?code=7"),
        (
            "https://api-inference.huggingface.co/models/org/m",
            "https://api-inference.huggingface.co/models/org/m",
            "https://api-inference.huggingface.co/models/org/m/v1/chat/completions",
        ),
        (
            "https://api-inference.huggingface.co",
            "https://api-inference.huggingface.co/models/org/m",
            "https://api-inference.huggingface.co/models/org/m/v1/chat/completions",
        ),
        (
            "https://router.huggingface.co/v1",
            "https://router.huggingface.co/hf-inference/models/org/m",
            "https://router.huggingface.co/v1/chat/completions",
        ),
    ],
)
def test_urls(base: str, generate: str, chat: str) -> None:
    urls = Urls(base, Dialect.AUTO, "org/m")
    assert str(urls.route("/generate")) == generate
    assert str(urls.route("/v1/chat/completions")) == chat


def test_a_server_of_ones_own_can_speak_the_hosted_dialect() -> None:
    urls = Urls("http://h:1/models/m", Dialect.HOSTED, None)
    assert str(urls.route("/generate_stream")) == "http://h:1/models/m"
    assert str(urls.route("/info")) == "http://h:1/models/m/info"
