import shlex

import pytest

from segue.containers.spec import ContainerSpec, default_name, gpus_text
from segue.core.errors import ConfigError


def _spec(**fields: object) -> ContainerSpec:
    return ContainerSpec(**{"image": "segue:latest", "model_id": "my/model", "secrets": (), **fields})  # type: ignore[arg-type]


def _value(argv: list[str], flag: str) -> str:
    return argv[argv.index(flag) + 1]


@pytest.mark.parametrize(
    ("gpus", "text"),
    [("all", "all"), (2, "2"), (("0",), "device=0"), (("0", "3"), '"device=0,3"'), (("GPU-8f",), "device=GPU-8f")],
)
def test_gpus_as_docker_reads_them(gpus: object, text: str) -> None:
    assert gpus_text(gpus) == text  # type: ignore[arg-type]
    assert _value(_spec(gpus=gpus).docker_argv(), "--gpus") == text


def test_no_gpus_and_cdi() -> None:
    argv = _spec(devices=("nvidia.com/gpu=0",)).docker_argv()
    assert "--gpus" not in argv
    assert _value(argv, "--device") == "nvidia.com/gpu=0"


@pytest.mark.parametrize(
    ("fields", "published"),
    [
        ({"port": 8080}, "127.0.0.1:8080:80"),
        ({"port": 0}, "127.0.0.1::80"),
        ({"port": 0, "host": None}, "80"),
        ({"port": 8080, "host": None, "container_port": 3000}, "8080:3000"),
        ({"port": 8080, "host": "::1"}, "[::1]:8080:80"),
    ],
)
def test_published_port(fields: dict[str, object], published: str) -> None:
    assert _value(_spec(**fields).docker_argv(), "-p") == published


def test_server_listens_where_it_is_published() -> None:
    assert "PORT=3000" in _spec(container_port=3000).docker_argv()
    on_host = _spec(network="host", port=8085).docker_argv()
    assert "-p" not in on_host
    assert "PORT=8085" in on_host


def test_options_as_flags_or_variables() -> None:
    options = {
        "trust_remote_code": True,
        "disable_grammar_support": False,
        "sharded": True,
        "lora_adapters": ("a", "b"),
    }
    assert _spec(options=options).server_args == shlex.split(
        "--model-id my/model --trust-remote-code --sharded true --lora-adapters a,b"
    )
    as_env = _spec(options=options, options_as="env")
    assert as_env.server_args == []
    assert as_env.server_env == {
        "MODEL_ID": "my/model",
        "TRUST_REMOTE_CODE": "true",
        "DISABLE_GRAMMAR_SUPPORT": "false",
        "SHARDED": "true",
        "LORA_ADAPTERS": "a,b",
    }


def test_process_argv() -> None:
    spec = _spec(port=8085, options={"max_total_tokens": 64}, args=("--env",))
    assert spec.process_argv() == shlex.split(
        "segue serve --model-id my/model --max-total-tokens 64 --hostname 127.0.0.1 --port 8085 --env"
    )
    launcher = _spec(port=8085, command=("text-generation-launcher",), options_as="env", host=None)
    assert launcher.process_argv() == shlex.split(
        "text-generation-launcher --model-id my/model --hostname 0.0.0.0 --port 8085"
    )


def test_secrets_are_named_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_very_secret")
    spec = _spec(secrets=("HF_TOKEN", "API_KEY"))
    argv = spec.docker_argv()
    assert [argv[at + 1] for at, word in enumerate(argv) if word == "-e"] == ["HF_TOKEN", "API_KEY"]
    assert "hf_very_secret" not in repr([argv, spec.process_argv(), spec])


@pytest.mark.parametrize(
    "fields",
    [
        {"env": {"HF_TOKEN": "hf_x"}},
        {"env": {"MY_PASSWORD": "x"}},
        {"options": {"api_key": "x"}},
        {"options": {"ngrok_authtoken": "x"}},
        {"args": ("--api-key", "x")},
        {"args": ("--api-key=x",)},
    ],
)
def test_secret_in_the_open_is_refused(fields: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="would show in process lists"):
        _spec(**fields)


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"options": {"max_totl_tokens": 3}}, "no option max_totl_tokens"),
        ({"options": {"port": 3}}, "fields of the spec"),
        ({"name": "a/b"}, "no container name"),
        ({"port": 70000}, "must be a port number"),
    ],
)
def test_what_cannot_work_is_refused(fields: dict[str, object], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        _spec(**fields)


def test_limits_are_not_taken_for_secrets() -> None:
    assert _spec(env={"MAX_BATCH_TOTAL_TOKENS": "64"}).server_env["MAX_BATCH_TOTAL_TOKENS"] == "64"


@pytest.mark.parametrize(
    ("model_id", "name"),
    [("google/t5-efficient-tiny", "tgi-google-t5-efficient-tiny"), ("/models/my model", "tgi-models-my-model")],
)
def test_default_name(model_id: str, name: str) -> None:
    assert default_name("tgi", model_id) == name
