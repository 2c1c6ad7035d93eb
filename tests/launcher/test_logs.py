"""The shapes of log lines that tooling around TGI reads (spec 5.5)."""

import io
import json
import logging
import re
from collections.abc import Iterator
from typing import Any

import pytest

from segue.core.errors import ConfigError
from segue.launcher.logs import parse_levels, set_up_logging


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    levels = {name: logging.getLogger(name).level for name in ("segue.server", "segue.launcher", "httpx", "uvicorn")}
    yield
    root.handlers = handlers
    root.setLevel(level)
    for name, value in levels.items():
        logging.getLogger(name).setLevel(value)


def lines(*, json_output: bool, level: str = "info") -> tuple[io.StringIO, Any]:
    stream = io.StringIO()
    set_up_logging(level, json_output=json_output, stream=stream)
    return stream, lambda: stream.getvalue().splitlines()


def test_L1_text_of_the_launcher() -> None:
    _, written = lines(json_output=False)
    logging.getLogger("segue.launcher.processes").info("Starting shard rank=%d", 0)
    assert re.fullmatch(
        r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z  INFO text_generation_launcher: Starting shard rank=0", written()[0]
    )


def test_L1_text_of_the_server_has_file_and_span() -> None:
    _, written = lines(json_output=False)
    logging.getLogger("segue.server.routes.generate").info(
        "Success", extra={"span": {"name": "generate", "total_time": "1.5ms"}}
    )
    assert re.search(
        r'INFO generate\{total_time="1\.5ms"\}: text_generation_router::server::routes::generate: '
        r"test_logs\.py:\d+: Success$",
        written()[0],
    )


def test_L1_json_of_the_launcher() -> None:
    _, written = lines(json_output=True)
    logging.getLogger("segue.launcher.processes").warning("Shard %s", "ready")
    line = json.loads(written()[0])
    assert list(line) == ["timestamp", "level", "fields", "target"]
    assert line["level"] == "WARN"
    assert line["fields"] == {"message": "Shard ready"}
    assert line["target"] == "text_generation_launcher"


def test_L1_json_of_the_server() -> None:
    _, written = lines(json_output=True)
    logging.getLogger("segue.server.app").info("Success", extra={"span": {"name": "generate", "seed": None}})
    line = json.loads(written()[0])
    assert line["message"] == "Success"
    assert line["filename"] == "test_logs.py"
    assert isinstance(line["line_number"], int)
    assert line["span"] == {"name": "generate", "seed": None}
    assert line["spans"] == [line["span"]]


def test_L1_an_exception_stays_in_its_json_line() -> None:
    _, written = lines(json_output=True)
    try:
        raise ValueError("broken")
    except ValueError:
        logging.getLogger("segue.launcher").exception("Failed")
    (line,) = written()
    assert "ValueError: broken" in json.loads(line)["fields"]["message"]


def test_L1_level() -> None:
    _, written = lines(json_output=False, level="warn,segue.server=debug")
    logging.getLogger("segue.launcher").info("no")
    logging.getLogger("segue.server.app").debug("yes")
    assert len(written()) == 1


@pytest.mark.parametrize(
    ("text", "root", "levels"),
    [
        ("info", logging.INFO, {}),
        ("TRACE", logging.DEBUG, {}),
        ("error,uvicorn=warn", logging.ERROR, {"uvicorn": logging.WARNING}),
        ("text_generation_router=debug", logging.INFO, {"segue.server": logging.DEBUG}),
        ("text_generation_router::infer=off", logging.INFO, {"segue.server.infer": logging.CRITICAL + 1}),
    ],
)
def test_L1_filters(text: str, root: int, levels: dict[str, int]) -> None:
    assert parse_levels(text) == (root, levels)


def test_L1_a_level_that_is_none() -> None:
    with pytest.raises(ConfigError, match="unknown level in 'segue=loud'"):
        parse_levels("info,segue=loud")
