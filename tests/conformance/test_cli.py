import argparse
import gc
import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from client.tgi_server import Reply, TgiServer, tgi

from segue.conformance.cli import ExitCode, _check_container, _Section, add_command, run
from segue.conformance.options import CheckOptions

COLLECTED = Path("collected_results/hf_tgi_container_test_results.json")
EXPECTED = Path("expected_results/hf_tgi_container_test_results.json")


@pytest.fixture
def client_log() -> Iterator[None]:
    """HF_TGI_DEBUG gives the client's logger a handler; it goes with the test."""
    logger = logging.getLogger("segue.client")
    handlers, level = list(logger.handlers), logger.level
    yield
    logger.handlers[:] = handlers
    logger.setLevel(level)


@pytest.fixture
def no_docker(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/no.sock")


def _run(folder: Path, environ: dict[str, str] | None = None, **given: Any) -> int:
    return run(CheckOptions(results_dir=str(folder), **given), environ or {})


# 4.14 no. 30
def test_all_well_is_0_and_a_failed_check_is_1(server: TgiServer, tmp_path: Path) -> None:
    assert _run(tmp_path, container=True, container_url=server.url) == 0
    server.handler = lambda seen: Reply(503) if seen.path == "/health" else tgi(seen)
    assert _run(tmp_path, container=True, container_url=server.url) == 1
    assert json.loads((tmp_path / COLLECTED).read_text())["health_check"].startswith("Failed: ")


# 4.14 no. 29
def test_expected_results_are_written_only_on_request_and_compared(
    server: TgiServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings: dict[str, Any] = {"container": True, "container_url": server.url}
    assert _run(tmp_path, **settings) == 0
    assert not (tmp_path / EXPECTED).exists()
    assert _run(tmp_path, **settings, update_expected=True) == 0
    blessed = (tmp_path / EXPECTED).read_text()
    (tmp_path / EXPECTED).write_text(blessed.replace('"text_generation": "Success"', '"text_generation": "Failed: x"'))
    capsys.readouterr()
    assert _run(tmp_path, **settings) == 1
    assert "text_generation: Success, expected: Failed" in capsys.readouterr().out
    assert _run(tmp_path, **settings, update_expected=True) == 0
    assert (tmp_path / EXPECTED).read_text() == blessed


def test_json(server: TgiServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(tmp_path, container=True, container_url=server.url, json=True) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["container"]["results"]["text_generation"] == "Success"
    assert printed["container"]["differences"] is None


@pytest.mark.parametrize("section", ["standard", "container"])
def test_unreachable_is_3(tmp_path: Path, capsys: pytest.CaptureFixture[str], section: str) -> None:
    with TgiServer() as gone:
        url = gone.url
    assert _run(tmp_path, **{section: True}, container_url=url) == ExitCode.UNREACHABLE == 3
    assert url in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


# The docker library forgets the socket that it could not connect.
@pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")
def test_no_container_engine_is_4_if_asked_for_and_skipped_else(
    no_docker: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _run(tmp_path, container=True) == ExitCode.NO_ENVIRONMENT == 4
    assert "Docker" in capsys.readouterr().err
    assert not (tmp_path / COLLECTED).exists()
    section = _Section("Container", "f.json", False)
    _check_container(CheckOptions(results_dir=str(tmp_path)), {}, section)
    assert {str(result).partition(":")[0] for result in section.results.values()} == {"Skipped"}
    gc.collect()


def test_debug_shows_requests_without_keys(
    server: TgiServer, tmp_path: Path, capsys: pytest.CaptureFixture[str], client_log: None
) -> None:
    environ = {"HF_TGI_DEBUG": "1"}
    settings: dict[str, Any] = {"container": True, "container_url": server.url, "api_key": "hf_very_secret"}
    assert _run(tmp_path, **settings) == 0
    assert "/generate" not in capsys.readouterr().err
    assert _run(tmp_path, environ, **settings) == 0
    shown = capsys.readouterr()
    assert "/generate" in shown.err
    assert "hf_very_secret" not in shown.err + shown.out + (tmp_path / COLLECTED).read_text()
    assert server.posts[0].key == "hf_very_secret"


def test_help_names_the_exit_codes() -> None:
    commands = argparse.ArgumentParser(prog="segue").add_subparsers()
    text = " ".join(add_command(commands).format_help().split())
    for part in ("2 wrong command line", "4 no server can be started", "HF_TGI_DEBUG=1", "130 interrupted"):
        assert part in text


def test_help_costs_no_heavy_import() -> None:
    heavy = ("httpx", "pydantic", "rich")
    code = f"import sys, segue.conformance.cli; print([name for name in {heavy} if name in sys.modules])"
    source = Path(__file__).parents[2] / "src"
    shown = subprocess.run([sys.executable, "-c", code], cwd=source, capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"
