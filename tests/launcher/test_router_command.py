"""``text-generation-router``: its options, and the document that it prints. Whole routers are in tests/e2e."""

import json
from typing import Any

import pytest

from segue.core.config import ServeConfig
from segue.core.errors import ConfigError
from segue.core.options import option_table
from segue.launcher import router_command
from segue.launcher.router_command import ROUTER_OPTIONS, resolve_router

TGI_ROUTER = {
    "max_concurrent_requests": 128,
    "max_best_of": 2,
    "max_stop_sequences": 4,
    "max_top_n_tokens": 5,
    "max_input_tokens": None,
    "max_total_tokens": None,
    "waiting_served_ratio": 1.2,
    "max_batch_prefill_tokens": 4096,
    "max_batch_total_tokens": None,
    "max_waiting_tokens": 20,
    "max_batch_size": None,
    "hostname": "0.0.0.0",
    "port": 3000,
    "prometheus_port": 9000,
    "tokenizer_config_path": None,
    "revision": None,
    "trust_remote_code": False,
    "validation_workers": 2,
    "api_key": (),
    "json_output": False,
    "otlp_endpoint": None,
    "otlp_service_name": "text-generation-inference.router",
    "cors_allow_origin": (),
    "ngrok": False,
    "ngrok_authtoken": None,
    "ngrok_edge": None,
    "disable_grammar_support": False,
    "max_client_batch_size": 4,
    "usage_stats": "on",
    "payload_limit": 2000000,
    "max_image_fetch_size": 1073741824,
}


@pytest.fixture
def routed(monkeypatch: pytest.MonkeyPatch) -> list[tuple[ServeConfig, str]]:
    """What was to be run, instead of running it."""
    from segue.launcher import router

    routed: list[tuple[ServeConfig, str]] = []
    monkeypatch.setattr(router, "route", lambda *arguments: routed.append(arguments))
    monkeypatch.setattr("segue.launcher.logs.set_up_logging", lambda level, json_output: None)
    for entry in option_table(ServeConfig):
        for name in entry.env:
            monkeypatch.delenv(name, raising=False)
    return routed


def test_B2_names_and_defaults_are_those_of_tgi() -> None:
    router, config = resolve_router({}, {})
    assert (router.tokenizer_name, router.master_shard_uds_path) == (
        "bigscience/bloom",
        "/tmp/text-generation-server-0",
    )
    assert {name: getattr(config, name) for name in TGI_ROUTER} == TGI_ROUTER
    assert config.model_id == "bigscience/bloom"
    assert TGI_ROUTER.keys() <= ROUTER_OPTIONS


def test_B2_flags(routed: list[tuple[ServeConfig, str]]) -> None:
    arguments = "--tokenizer-name some/model --master-shard-uds-path /run/engine-0 -p 80 --max-batch-prefill-tokens 9"
    assert router_command.main(arguments.split()) == 0
    ((config, path),) = routed
    assert path == "/run/engine-0"
    assert (config.model_id, config.port, config.max_batch_prefill_tokens) == ("some/model", 80, 9)


def test_B2_variables(routed: list[tuple[ServeConfig, str]], monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of the engine are not the router's: a container has both."""
    variables = {"TOKENIZER_NAME": "a/b", "WAITING_SERVED_RATIO": "0.5", "MODEL_ID": "c/d", "QUANTIZE": "gptq"}
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert router_command.main([]) == 0
    ((config, _),) = routed
    assert (config.model_id, config.waiting_served_ratio, config.quantize) == ("a/b", 0.5, None)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"validation_workers": 0}, "`validation_workers` must be > 0"),
        ({"max_batch_size": 0}, "`max_batch_size` must be > 0"),
        ({"max_input_tokens": 5, "max_total_tokens": 5}, "must be < `max_total_tokens`"),
        ({"max_batch_total_tokens": 4000}, "`max_batch_prefill_tokens` must be <= `max_batch_total_tokens`"),
    ],
)
def test_B2_arguments_are_checked(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message.replace("(", r"\(")):
        resolve_router(given, {})


def test_B2_print_schema(capsys: pytest.CaptureFixture[str]) -> None:
    assert router_command.main(["print-schema"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["info"]["title"] == "Text Generation Inference"
    assert "/generate_stream" in document["paths"]
    assert "GenerateParameters" in document["components"]["schemas"]


@pytest.mark.parametrize("arguments", [["--quantize", "gptq"], ["print-schema", "--port", "3"], ["--master"]])
def test_B2_a_wrong_command_line_exits_with_2(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        router_command.main(arguments)
    assert caught.value.code == 2


def test_B2_help_says_the_routers_own_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        router_command.main(["--help"])
    assert caught.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "[env: WAITING_SERVED_RATIO] [default: 1.2]" in text
    assert "--model-id" not in text
