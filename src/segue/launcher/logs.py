"""Log lines as TGI's tooling expects them: one text line or one JSON object a record, on standard output.

TGI writes two shapes of JSON: its launcher nests the message under ``fields``, its router puts it beside the level.
The same is done here by who speaks: the launcher and the engine, or the server. A record may carry
``extra={"span": {"name": "generate", "total_time": "1.2ms", …}}``.
"""

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any, TextIO

from segue.core.errors import ConfigError

__all__ = ["JsonFormatter", "TextFormatter", "parse_levels", "set_up_logging"]

_LEVELS = {
    "off": logging.CRITICAL + 1,
    "error": logging.ERROR,
    "warn": logging.WARNING,
    "warning": logging.WARNING,
    "info": logging.INFO,
    "debug": logging.DEBUG,
    "trace": logging.DEBUG,
}
_TGI_TARGETS = {"text_generation_launcher": "segue.launcher", "text_generation_router": "segue.server"}
_QUIET = ("uvicorn", "httpx", "httpcore", "filelock", "asyncio", "urllib3", "huggingface_hub", "multipart")
"""Libraries whose own chatter starts at warnings, whatever the level, unless the filter names them."""
_LEVEL_COLORS = {"ERROR": "31", "WARN": "33", "INFO": "32", "DEBUG": "34"}


def set_up_logging(level: str, *, json_output: bool, stream: TextIO | None = None) -> None:
    """Send all records of this process to ``stream`` (default: standard output). Raises ConfigError for a bad level."""
    stream = stream or sys.stdout
    root_level, levels = parse_levels(level)
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter() if json_output else TextFormatter(has_colors=stream.isatty()))
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(root_level)
    for name in _QUIET:
        logging.getLogger(name).setLevel(max(root_level, logging.WARNING))
    for name, value in levels.items():
        logging.getLogger(name).setLevel(value)


def parse_levels(text: str) -> tuple[int, dict[str, int]]:
    """``info`` or a filter such as ``warn,segue.server=debug``: the level of all, and of loggers by name.

    TGI's target names (``text_generation_router=debug``) stand for the loggers that took their place.
    """
    root_level = logging.INFO
    levels: dict[str, int] = {}
    for directive in filter(None, (part.strip() for part in text.split(","))):
        target, separator, name = directive.rpartition("=")
        value = _LEVELS.get(name.strip().lower())
        if value is None:
            raise ConfigError(f"LOG_LEVEL: unknown level in '{directive}'; use off, error, warn, info, debug or trace")
        if not separator:
            root_level = value
            continue
        root_name, *rest = target.strip().split("::")
        levels[".".join([_TGI_TARGETS.get(root_name, root_name), *rest])] = value
    return root_level, levels


def _is_launcher(record: logging.LogRecord) -> bool:
    return not record.name.startswith(("segue.server", "segue.text", "uvicorn"))


def _timestamp(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _level(record: logging.LogRecord) -> str:
    return "WARN" if record.levelno == logging.WARNING else record.levelname


def _target(record: logging.LogRecord) -> str:
    if _is_launcher(record):
        return "text_generation_launcher"
    return "text_generation_router" + "".join(f"::{part}" for part in record.name.split(".")[1:])


def _message(record: logging.LogRecord, formatter: logging.Formatter) -> str:
    message = record.getMessage()
    if record.exc_info:
        message = f"{message}\n{formatter.formatException(record.exc_info)}"
    return message


class TextFormatter(logging.Formatter):
    """``2026-01-31T12:00:00.000000Z  INFO text_generation_launcher: Starting shard``."""

    def __init__(self, *, has_colors: bool) -> None:
        super().__init__()
        self._has_colors = has_colors

    def format(self, record: logging.LogRecord) -> str:
        level = f"{_level(record):>5}"
        if self._has_colors:
            level = f"\x1b[{_LEVEL_COLORS.get(level.strip(), '0')}m{level}\x1b[0m"
        where = _target(record)
        if not _is_launcher(record):
            where = f"{where}: {record.filename}:{record.lineno}"
        span = getattr(record, "span", None)
        if span:
            fields = " ".join(f"{key}={json.dumps(value)}" for key, value in span.items() if key != "name")
            where = f"{span.get('name', '')}{{{fields}}}: {where}"
        return f"{_timestamp(record)} {level} {where}: {_message(record, self)}"


class JsonFormatter(logging.Formatter):
    """One JSON object a line, in TGI's two shapes."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {"timestamp": _timestamp(record), "level": _level(record)}
        message = _message(record, self)
        if _is_launcher(record):
            line |= {"fields": {"message": message}, "target": _target(record)}
        else:
            line |= {"message": message, "target": _target(record)}
            line |= {"filename": record.filename, "line_number": record.lineno}
            span = getattr(record, "span", None)
            if span:
                line |= {"span": span, "spans": [span]}
        return json.dumps(line, ensure_ascii=False, default=str)
