"""``text-generation-server``: its commands' options. Whole engines are in tests/e2e, the weights' work beside it."""

import json
from pathlib import Path
from typing import Any

import pytest

from segue.core.config import ServeConfig
from segue.core.options import option_table
from segue.launcher import download, server_command

Calls = list[tuple[tuple[Any, ...], dict[str, Any]]]


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("segue.launcher.logs.set_up_logging", lambda level, json_output: None)
    for entry in option_table(ServeConfig):
        for name in entry.env:
            monkeypatch.delenv(name, raising=False)
    for name in ("CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES", "ZE_AFFINITY_MASK"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    """What the commands were to do, instead of doing it."""
    from segue.launcher import engine_server

    calls: Calls = []

    def note(*arguments: Any, **options: Any) -> None:
        calls.append((arguments, options))

    monkeypatch.setattr(engine_server, "serve_engine", note)
    monkeypatch.setattr(download, "download_weights", note)
    return calls


def test_B1_serve(calls: Calls) -> None:
    arguments = "serve some/model --revision v1 --no-sharded --speculate 2 --dtype bfloat16 --trust-remote-code"
    arguments += " --uds-path /run/engine --logger-level DEBUG --json-output --otlp-endpoint http://localhost:4317"
    arguments += " --max-input-tokens 100"
    assert server_command.main(arguments.split()) == 0
    ((config, uds_path), _) = calls[0]
    assert uds_path == "/run/engine"
    assert (config.model_id, config.revision, config.sharded, config.speculate) == ("some/model", "v1", False, 2)
    assert (config.dtype, config.trust_remote_code, config.log_level, config.json_output) == (
        "bfloat16",
        True,
        "debug",
        True,
    )
    assert config.max_input_tokens == 100


def test_B1_serve_alone(calls: Calls, monkeypatch: pytest.MonkeyPatch) -> None:
    """What TGI's shard has no flag for it reads from the variables that its launcher sets."""
    monkeypatch.setenv("MAX_TOTAL_TOKENS", "500")
    assert server_command.main(["serve", "some/model"]) == 0
    ((config, uds_path), _) = calls[0]
    assert uds_path == "/tmp/text-generation-server"
    assert config.otlp_service_name == "text-generation-inference.server"
    assert (config.max_total_tokens, config.log_level) == (500, "info")


def test_B1_serve_over_several_devices(calls: Calls, capsys: pytest.CaptureFixture[str]) -> None:
    assert server_command.main(["serve", "some/model", "--sharded"]) == 1
    assert capsys.readouterr().err.startswith('Error: NotEnoughCUDADevices("`sharded` is true, but')
    assert calls == []


@pytest.mark.parametrize(
    ("arguments", "options"),
    [
        ([], {"extension": ".safetensors", "convert": True, "merge_adapter": False}),
        (["--merge-lora", "--no-auto-convert"], {"extension": ".safetensors", "convert": False, "merge_adapter": True}),
        (["--extension", ".bin", "--auto-convert"], {"extension": ".bin", "convert": True, "merge_adapter": False}),
    ],
)
def test_B1_download_weights(calls: Calls, arguments: list[str], options: dict[str, Any]) -> None:
    more = ["--revision", "v1", "--logger-level", "INFO", "--json-output", "--trust-remote-code"]
    assert server_command.main(["download-weights", "some/model", *arguments, *more]) == 0
    ((config,), given) = calls[0]
    assert (config.model_id, config.revision, config.trust_remote_code) == ("some/model", "v1", True)
    assert given == options


def test_B1_quantize(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a text the model writes one."""
    monkeypatch.setattr("segue.launcher.calibration_text.CALIBRATION_TOKENS", 600)
    output = tmp_path / "out"
    arguments = ["quantize", "sample-chat", str(output), "--groupsize", "64", "--act-order", "--percdamp", "0.05"]
    assert server_command.main(arguments) == 0
    config = json.loads((output / "config.json").read_text("utf-8"))["quantization_config"]
    expected = {"quant_method": "gptq", "bits": 4, "group_size": 64, "desc_act": True, "damp_percent": 0.05}
    assert expected.items() <= config.items()
    assert (output / "model.safetensors").exists()


def test_B1_quantize_with_a_text(tmp_path: Path) -> None:
    text, output = tmp_path / "text", tmp_path / "out"
    text.write_text("Once upon a time there was a cat. " * 40, "utf-8")
    assert server_command.main(["quantize", "sample-chat", str(output), "--bits", "8", "--text", str(text)]) == 0
    config = json.loads((output / "quantize_config.json").read_text("utf-8"))
    assert (config["bits"], config["group_size"], config["desc_act"]) == (8, 128, False)


@pytest.mark.parametrize(
    ("model", "option", "message"),
    [
        ("sample-chat", ["--percdamp", "-1"], "`percdamp` must be from 0 to 1"),
        ("sample-chat", ["--bits", "3"], "`bits` must be 4 or 8"),
        ("sample-chat", ["--groupsize", "48"], "`groupsize` must be one of -1, 32, 64, 128, 256"),
        ("sample-chat", ["--text", "no such file"], "`text`: no such file cannot be read"),
        ("sample-t5", [], "for models without an encoder"),
    ],
)
def test_B1_quantize_refuses_what_it_does_not_do(
    model: str, option: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert server_command.main(["quantize", model, str(tmp_path / "out"), *option]) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "arguments",
    [[], ["serve"], ["quantize", "model"], ["download-weights", "m", "--extension", ".gguf"], ["merge-lora", "m"]],
)
def test_B1_a_wrong_command_line_exits_with_2(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        server_command.main(arguments)
    assert caught.value.code == 2
