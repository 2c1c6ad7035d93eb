"""``text-generation-router``: HTTP in front of an engine that ``text-generation-server serve`` started."""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from segue._version import __version__
from segue.core.config import ServeConfig, environment, resolve
from segue.core.options import option, option_table, resolve_options
from segue.launcher.arguments import Parser, add_options, given_options
from segue.launcher.exit_codes import run_command

__all__ = ["ROUTER_DEFAULTS", "ROUTER_OPTIONS", "RouterConfig", "main", "resolve_router"]

_HELP = """\
Serve HTTP for an engine that `text-generation-server serve MODEL` started. `text-generation-launcher` does both.
`text-generation-router print-schema` prints the OpenAPI document.
"""
_GROUPS = ("Limits of a request", "HTTP", "Hugging Face Hub", "Logs and observability")
_NOT_THE_ROUTERS = {"max_input_length", "watermark_gamma", "watermark_delta", "engine_timeout", "env", "api_processes"}
_MORE = {
    "revision",
    "trust_remote_code",
    "tokenizer_config_path",
    "max_batch_prefill_tokens",
    "max_batch_total_tokens",
    "max_batch_size",
    "waiting_served_ratio",
    "max_waiting_tokens",
    "compute_type",
    "ngrok",
    "ngrok_authtoken",
    "ngrok_edge",
    "usage_stats",
}

ROUTER_OPTIONS = frozenset(
    entry.name
    for entry in option_table(ServeConfig)
    if entry.name in _MORE or (entry.group in _GROUPS and entry.name not in _NOT_THE_ROUTERS)
)
"""The launcher's options that are the router's too."""
ROUTER_DEFAULTS = {"waiting_served_ratio": 1.2, "max_batch_prefill_tokens": 4096}
"""TGI's router alone has other defaults than its launcher."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RouterConfig:
    """What only the router has."""

    tokenizer_name: str = option(
        "bigscience/bloom", "Folder or name on the Hub of the model that the engine runs.", group="Engine"
    )
    master_shard_uds_path: str = option(
        "/tmp/text-generation-server-0",  # noqa: S108
        "Socket of the engine.",
        group="Engine",
        metavar="PATH",
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """``text-generation-router``. Returns the exit code."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    if given[:1] == ["print-schema"]:
        return run_command(_print_schema, _schema_parser().parse_args(given[1:]))
    parser = Parser(prog="text-generation-router", usage="%(prog)s [OPTIONS] [print-schema]", description=_HELP)
    parser.add_argument("-V", "--version", action="version", version=f"text-generation-router {__version__} (segue)")
    add_options(parser, RouterConfig)
    add_options(parser, ServeConfig, ROUTER_OPTIONS, ROUTER_DEFAULTS)
    return run_command(_route, parser.parse_args(given))


def resolve_router(given: Mapping[str, Any], environ: Mapping[str, str]) -> tuple[RouterConfig, ServeConfig]:
    """Flag, then environment, then default. ``given``: parsed flags of both classes by field name.

    Raises OptionError and ConfigError, as ``segue.core.config.resolve``.
    """
    own = {entry.name for entry in option_table(RouterConfig)}
    router = resolve_options(RouterConfig, {name: given[name] for name in own & given.keys()}, environ, {})
    table = [entry for entry in option_table(ServeConfig) if entry.name in ROUTER_OPTIONS]
    variables = {name: environ[name] for entry in table for name in entry.env if environ.get(name)}
    shared = {name: value for name, value in given.items() if name in ROUTER_OPTIONS}
    for name, default in ROUTER_DEFAULTS.items():
        if name.upper() not in variables:
            shared.setdefault(name, default)
    return router, resolve(shared | {"model_id": router.tokenizer_name}, variables)


def _schema_parser() -> Parser:
    usage = "text-generation-router print-schema"
    return Parser(prog=usage, usage=usage, description="Print the OpenAPI document as JSON.")


def _print_schema(_: argparse.Namespace) -> None:
    from segue.server.app import OPERATIONS
    from segue.server.openapi import openapi_document
    from segue.server.state import API_VERSION

    print(json.dumps(openapi_document(OPERATIONS, API_VERSION), indent=2, ensure_ascii=False))


def _route(namespace: argparse.Namespace) -> None:
    given = {**given_options(namespace, RouterConfig), **given_options(namespace, ServeConfig)}
    router, config = resolve_router(given, environment())

    from segue.launcher.logs import set_up_logging

    set_up_logging(config.log_level, json_output=config.json_output)

    from segue.launcher.router import route

    route(config, router.master_shard_uds_path)
