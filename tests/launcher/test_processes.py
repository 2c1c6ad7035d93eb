"""The port before the server, and everything that turns text into ids. Whole servers are in tests/e2e."""

import json
import logging
import shutil
import signal
import socket
from pathlib import Path

import pytest

from segue.core.config import ServeConfig
from segue.core.errors import ConfigError
from segue.launcher import processes
from segue.launcher.download import ModelSource
from segue.launcher.processes import PortError, bind, load_text


def test_a_bound_port_refuses_callers_until_somebody_listens() -> None:
    with bind("127.0.0.1", 0) as listener, socket.socket() as caller:
        address = listener.getsockname()
        assert caller.connect_ex(address) != 0
        listener.listen()
        assert caller.connect_ex(address) == 0


def test_a_port_that_is_taken() -> None:
    with bind("127.0.0.1", 0) as first:
        first.listen()
        port = first.getsockname()[1]
        with pytest.raises(PortError, match=f"cannot listen on 127.0.0.1 port {port}: Address already in use"):
            bind("127.0.0.1", port)


@pytest.mark.parametrize(
    ("hostname", "address", "warns"),
    [("127.0.0.1", "127.0.0.1", False), ("localhost", "127.0.0.1", False), ("c0ffee123456", "0.0.0.0", True)],
)
def test_hostname(hostname: str, address: str, warns: bool, caplog: pytest.LogCaptureFixture) -> None:
    """In a container HOSTNAME is its id; TGI listens everywhere then."""
    with bind(hostname, 0) as listener:
        assert listener.getsockname()[0] == address
    assert (f"Invalid hostname '{hostname}', defaulting to 0.0.0.0" in caplog.text) == warns


def test_ipv6() -> None:
    try:
        listener = bind("::1", 0)
    except PortError:
        pytest.skip("no IPv6 here")
    with listener:
        assert listener.family == socket.AF_INET6


def test_the_metrics_port_is_no_condition(caplog: pytest.LogCaptureFixture) -> None:
    with bind("127.0.0.1", 0) as taken:
        taken.listen()
        config = ServeConfig(hostname="127.0.0.1", prometheus_port=taken.getsockname()[1])
        assert processes._bind_metrics(config) is None
    assert "Metrics have no port of their own" in caplog.text
    assert processes._bind_metrics(ServeConfig(port=9000, prometheus_port=9000)) is None


@pytest.mark.parametrize(
    ("address", "url"), [("0.0.0.0", "127.0.0.1"), ("::", "127.0.0.1"), ("10.1.2.3", "10.1.2.3"), ("::1", "[::1]")]
)
def test_where_a_user_finds_the_server(address: str, url: str) -> None:
    assert processes._reachable(address) == url


def test_signals_before_there_is_a_loop_end_quietly(monkeypatch: pytest.MonkeyPatch) -> None:
    """A download may take an hour, and Ctrl-C during it is a clean stop."""

    def find(config: ServeConfig) -> ModelSource:
        signal.raise_signal(signal.SIGTERM)
        raise AssertionError("the signal was not heard")

    monkeypatch.setattr(processes, "find_model", find)
    before = signal.getsignal(signal.SIGTERM)
    processes.serve(ServeConfig(hostname="127.0.0.1", port=0))
    assert signal.getsignal(signal.SIGTERM) is before


def test_load_text(tiny_llama: Path) -> None:
    source = ModelSource(model_id="some/model", folder=tiny_llama, sha="abc", pipeline_tag="text-generation")
    model = load_text(ServeConfig(), source)
    assert (model.model_id, model.sha, model.pipeline_tag) == ("some/model", "abc", "text-generation")
    assert model.tokenizer.decode(model.tokenizer.encode("héllo"), skip_special_tokens=True) == "héllo"
    assert model.chat_template is not None
    assert model.chat_template.render([{"role": "user", "content": "hi"}]) == "<user>hi<assistant>"


def test_another_tokenizer_config(tiny_llama: Path, tmp_path: Path) -> None:
    path = tmp_path / "other.json"
    path.write_text(json.dumps({"chat_template": "{{ messages[0].content }}!"}))
    model = load_text(ServeConfig(tokenizer_config_path=str(path)), ModelSource(model_id="x", folder=tiny_llama))
    assert model.chat_template is not None
    assert model.chat_template.render([{"role": "user", "content": "hi"}]) == "hi!"


@pytest.mark.parametrize(("template", "level"), [(None, logging.INFO), ("{% if %}", logging.WARNING)])
def test_without_a_template_there_is_no_chat(
    tiny_llama: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, template: str | None, level: int
) -> None:
    folder = Path(shutil.copytree(tiny_llama, tmp_path / "model"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": template} if template else {}))
    with caplog.at_level(logging.INFO):
        assert load_text(ServeConfig(), ModelSource(model_id="x", folder=folder)).chat_template is None
    (record,) = caplog.records
    assert "requests to chat are refused" in record.message
    assert record.levelno == level


def test_C3_a_template_for_functions(tiny_llama: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = Path(shutil.copytree(tiny_llama, tmp_path / "model"))
    templates = [{"name": "default", "template": "plain"}, {"name": "tool_use", "template": "{{ tools }}"}]
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": templates}))
    model = load_text(ServeConfig(), ModelSource(model_id="x", folder=folder))
    assert model.chat_template is not None
    assert model.tool_template is not None
    assert (model.chat_template.uses_tools, model.tool_template.uses_tools) == (False, True)
    templates[1]["template"] = "{% if %}"
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": templates}))
    model = load_text(ServeConfig(), ModelSource(model_id="x", folder=folder))
    assert model.chat_template is not None
    assert model.tool_template is None
    assert "functions go into the default one" in caplog.text


def test_a_tokenizer_that_cannot_be_read(tiny_llama: Path, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"tokenizer\.json cannot be read"):
        load_text(ServeConfig(), ModelSource(model_id="x", folder=tmp_path))
