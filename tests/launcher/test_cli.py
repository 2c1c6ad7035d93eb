"""The command lines: what they accept, what they refuse, and what they load."""

import importlib
import json
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from segue._version import __version__
from segue.core.config import ServeConfig
from segue.core.errors import SegueError
from segue.core.options import option_table
from segue.launcher import cli, processes
from segue.launcher.cli_page import cli_page
from segue.launcher.download import DownloadError
from segue.launcher.engine_process import EngineStartError
from segue.launcher.processes import EngineLostError, PortError, WebserverError

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[ServeConfig]:
    """The configurations that were to be served, instead of serving them."""
    served: list[ServeConfig] = []
    monkeypatch.setattr(processes, "serve", served.append)
    monkeypatch.setattr("segue.launcher.logs.set_up_logging", lambda level, json_output: None)
    for entry in option_table(ServeConfig):
        for name in entry.env:
            monkeypatch.delenv(name, raising=False)
    return served


@pytest.mark.parametrize(
    ("command", "arguments", "model"),
    [
        (cli.main, ["serve"], "sample-chat"),
        (cli.main, ["serve", "sample-t5"], "sample-t5"),
        (cli.main, ["serve", "--model-id", "some/model"], "some/model"),
        (cli.text_generation_launcher, [], "bigscience/bloom-560m"),
        (cli.text_generation_launcher, ["--model-id", "some/model"], "some/model"),
    ],
)
def test_what_is_served(served: list[ServeConfig], command: Any, arguments: list[str], model: str) -> None:
    assert command(arguments) == 0
    assert [config.model_id for config in served] == [model]


def test_model_id_from_the_environment(served: list[ServeConfig], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODEL_ID", "some/model")
    cli.main(["serve"])
    cli.text_generation_launcher([])
    cli.main(["serve", "other/model"])
    assert [config.model_id for config in served] == ["some/model", "some/model", "other/model"]


def test_F1_flags_of_every_kind(served: list[ServeConfig]) -> None:
    arguments = "-p 8080 -g 5 --trust-remote-code --sharded false --cuda-graphs 1,2 --cuda-graphs 4 --json-output"
    arguments += " --cors-allow-origin http://a --cors-allow-origin http://b --kv-cache-memory 512M --rope-factor 2"
    assert cli.text_generation_launcher(arguments.split()) == 0
    (config,) = served
    assert (config.port, config.graceful_termination_timeout) == (8080, 5)
    assert config.trust_remote_code
    assert config.json_output
    assert config.sharded is False
    assert config.cuda_graphs == (1, 2, 4)
    assert config.cors_allow_origin == ("http://a", "http://b")
    assert (config.kv_cache_memory, config.rope_factor) == (512_000_000, 2.0)


def test_every_flag_of_the_launcher_is_a_flag_of_serve(served: list[ServeConfig]) -> None:
    for entry in option_table(ServeConfig):
        if entry.flag is None:
            continue
        value = [] if entry.is_switch else [_some_value(entry)]
        assert cli._segue_parser().parse_args(["serve", entry.flag, *value]) is not None


def _some_value(entry: Any) -> str:
    if entry.choices:
        return str(entry.choices[0])
    return "true" if entry.kind is bool else "1"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--max-batch"], "unrecognized arguments: --max-batch"),  # no abbreviations
        (["--port", "many"], "invalid value 'many' for '--port'"),
        (["--quantize", "int3"], "[possible values: int8, int4, awq"),
        (["--max_total_tokens", "3"], "unrecognized arguments"),  # kebab-case only
        (["some/model"], "unrecognized arguments: some/model"),
    ],
)
def test_F5_a_wrong_command_line_exits_with_2(
    served: list[ServeConfig], capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.text_generation_launcher(arguments)
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert "try 'text-generation-launcher --help'" in error
    assert served == []


def test_a_wrong_variable_exits_with_2(
    served: list[ServeConfig], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PORT", "many")
    assert cli.main(["serve"]) == 2
    assert "invalid value 'many' for 'PORT'" in capsys.readouterr().err


def test_naming_the_model_twice(served: list[ServeConfig], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["serve", "a", "--model-id", "b"]) == 2
    assert "the model is named twice" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--max-input-tokens", "5", "--max-total-tokens", "5"],
            "`max_input_tokens`(5) must be < `max_total_tokens`(5)",
        ),
        (["--quantize", "fp8"], "`--quantize fp8` is not in this version of Segue"),
    ],
)
def test_F5_options_that_cannot_be_exit_with_1(
    served: list[ServeConfig], capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert cli.text_generation_launcher(arguments) == 1
    error = capsys.readouterr().err
    assert error.startswith('Error: ArgumentValidation("')
    assert message in error


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (DownloadError("no such model"), "Error: DownloadError: no such model\n"),
        (EngineStartError("no memory"), "Error: ShardCannotStart: no memory\n"),
        (EngineLostError("no memory"), "Error: ShardFailed: no memory\n"),
        (PortError("taken"), "Error: WebserverCannotStart: taken\n"),
        (WebserverError("ended"), "Error: WebserverFailed: ended\n"),
    ],
)
def test_F5_failures_have_tgis_names(
    served: list[ServeConfig],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: SegueError,
    line: str,
) -> None:
    def fail(config: ServeConfig) -> None:
        raise error

    monkeypatch.setattr(processes, "serve", fail)
    assert cli.main(["serve"]) == 1
    assert capsys.readouterr().err == line


def test_F10_env_prints_the_environment_and_goes_on(
    served: list[ServeConfig], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.text_generation_launcher(["-e"]) == 0
    assert capsys.readouterr().out.startswith("Runtime environment:\nTarget: ")
    assert len(served) == 1


@pytest.mark.parametrize(
    "arguments", [["--help"], ["--version"], ["serve", "--help"], ["generate", "--help"], ["chat", "-h"]]
)
def test_help_is_instant(arguments: list[str]) -> None:
    """Nothing is imported that a command does not need."""
    heavy = [
        "torch",
        "transformers",
        "fastapi",
        "uvicorn",
        "pydantic",
        "httpx",
        "huggingface_hub",
        "tokenizers",
        "numpy",
    ]
    script = (
        f"import sys, json\nfrom segue.launcher.cli import main\n"
        f"try:\n    main({arguments!r})\nexcept SystemExit as end:\n    assert end.code == 0\n"
        f"print(json.dumps([name for name in {heavy!r} if name in sys.modules]))"
    )
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, env=_environment()
    )
    *text, imported = result.stdout.splitlines()
    assert json.loads(imported) == []
    assert text[0].startswith(("usage: segue", f"segue {__version__}"))


@pytest.mark.parametrize("module", ["router_command", "server_command", "benchmark_command"])
def test_B1_B2_B3_help_of_tgis_commands_is_instant(module: str) -> None:
    script = (
        f"import sys\nfrom segue.launcher.{module} import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit as end:\n    assert end.code == 0\n"
        "print(sorted({'torch', 'numpy', 'pydantic', 'rich', 'huggingface_hub'} & {*sys.modules}))"
    )
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, env=_environment()
    )
    assert result.stdout.startswith("usage: text-generation-")
    assert result.stdout.splitlines()[-1] == "[]"


def test_F1_scripts_are_installed() -> None:
    """Each command of TGI is one of ours, and leads to a function."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    names = {f"text-generation-{name}" for name in ("launcher", "router", "server", "benchmark")}
    assert names <= project["scripts"].keys()
    for target in project["scripts"].values():
        module, _, function = target.partition(":")
        assert callable(getattr(importlib.import_module(module), function))


def test_help_teaches() -> None:
    result = _segue("--help")
    for words in ("segue serve", 'segue generate "Once upon"', "segue chat", "curl", "text-generation-launcher"):
        assert words in result.stdout
    serve = " ".join(_segue("serve", "--help").stdout.split())
    assert "[env: MAX_TOTAL_TOKENS]" in serve
    assert "[default: 3000]" in serve
    assert "HF_TOKEN" not in serve  # a secret has no flag


def test_no_command() -> None:
    assert _segue().returncode == 2


def test_the_page_is_up_to_date() -> None:
    """Else: ``python -m segue.launcher.cli_page > docs/cli.md``."""
    assert (ROOT / "docs" / "cli.md").read_text("utf-8") == cli_page()


def _segue(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "segue", *arguments], capture_output=True, text=True, env=_environment()
    )


def _environment() -> dict[str, str]:
    return {"PYTHONPATH": str(ROOT / "src")}
