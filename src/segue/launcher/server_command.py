"""``text-generation-server``: TGI's engine process, and what prepares weights for it."""

import argparse
import functools
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from segue._version import __version__
from segue.core.config import ServeConfig, environment, resolve
from segue.core.options import option, resolve_options
from segue.launcher.arguments import Parser, add_options, given_options
from segue.launcher.exit_codes import run_command

__all__ = [
    "DOWNLOAD_OPTIONS",
    "SERVE_DEFAULTS",
    "SERVE_OPTIONS",
    "DownloadOptions",
    "EngineOptions",
    "QuantizeOptions",
    "main",
]

_HELP = """\
The parts of a server: `text-generation-launcher` runs them as needed.
"""
SERVE_OPTIONS = (
    "revision",
    "quantize",
    "speculate",
    "dtype",
    "kv_cache_dtype",
    "trust_remote_code",
    "json_output",
    "otlp_endpoint",
    "otlp_service_name",
    "max_input_tokens",
)
SERVE_DEFAULTS = {"otlp_service_name": "text-generation-inference.server"}
DOWNLOAD_OPTIONS = ("revision", "trust_remote_code", "json_output")

_own = functools.partial(option, group="Options", env=())


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOptions:
    """Of ``serve``, beside those that it shares with the launcher."""

    uds_path: str = _own(
        "/tmp/text-generation-server",  # noqa: S108
        "Where to listen: this and -0, the shard's number.",
        metavar="PATH",
    )
    logger_level: str | None = _own(None, "As LOG_LEVEL.", metavar="LEVEL")


@dataclass(frozen=True, slots=True, kw_only=True)
class DownloadOptions:
    """Of ``download-weights``."""

    extension: str = _own(".safetensors", "Kind of weight files to fetch.", choices=(".safetensors", ".bin"))
    merge_lora: bool = _own(False, "Merge an adapter into its base model.")
    logger_level: str | None = _own(None, "As LOG_LEVEL.", metavar="LEVEL")


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizeOptions:
    """Of ``quantize``."""

    bits: int = _own(4, "Bits of the weights: 4 or 8.")
    percdamp: float = _own(0.01, "Damping, as a share of the mean of the inputs' squares.")
    act_order: bool = _own(False, "The inputs that matter most are rounded first.")
    groupsize: int = _own(128, "Inputs that share a scale: 32, 64, 128 or 256; -1: all.")
    text: str | None = _own(None, "Calibrate with this file; without it with what the model writes.", metavar="FILE")
    upload_to_model_id: str | None = _own(None, "Repository on the Hub to upload the result to.")
    logger_level: str | None = _own(None, "As LOG_LEVEL.", metavar="LEVEL")


def main(arguments: Sequence[str] | None = None) -> int:
    """``text-generation-server``. Returns the exit code."""
    parser = Parser(prog="text-generation-server", usage="%(prog)s COMMAND [OPTIONS]", description=_HELP)
    parser.add_argument("-V", "--version", action="version", version=f"text-generation-server {__version__} (segue)")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    serve = commands.add_parser("serve", help="run an engine for text-generation-router")
    serve.add_argument("model_id", metavar="MODEL_ID")
    serve.add_argument("--sharded", action=argparse.BooleanOptionalAction, help="split the model over several GPUs")
    add_options(serve, EngineOptions)
    add_options(serve, ServeConfig, SERVE_OPTIONS, SERVE_DEFAULTS)
    serve.set_defaults(run=_serve)

    download = commands.add_parser("download-weights", help="fetch a model, and convert or merge its weights")
    download.add_argument("model_id", metavar="MODEL_ID")
    download.add_argument(
        "--auto-convert", action=argparse.BooleanOptionalAction, default=True, help="convert PyTorch's weights"
    )
    add_options(download, DownloadOptions)
    add_options(download, ServeConfig, DOWNLOAD_OPTIONS)
    download.set_defaults(run=_download)

    quantize = commands.add_parser("quantize", help="write a checkpoint with weights of 4 bits by GPTQ")
    quantize.add_argument("model_id", metavar="MODEL_ID")
    quantize.add_argument("output_dir", metavar="OUTPUT_DIR")
    add_options(quantize, QuantizeOptions)
    add_options(quantize, ServeConfig, DOWNLOAD_OPTIONS)
    quantize.set_defaults(run=_quantize)

    namespace = parser.parse_args(sys.argv[1:] if arguments is None else arguments)
    return run_command(namespace.run, namespace)


def _serve(namespace: argparse.Namespace) -> None:
    options = resolve_options(EngineOptions, given_options(namespace, EngineOptions), {}, {})
    config = _config(namespace, options.logger_level, sharded=namespace.sharded)

    from segue.launcher.engine_server import serve_engine

    serve_engine(config, options.uds_path)


def _download(namespace: argparse.Namespace) -> None:
    options = resolve_options(DownloadOptions, given_options(namespace, DownloadOptions), {}, {})
    config = _config(namespace, options.logger_level)

    from segue.launcher.download import download_weights

    download_weights(
        config, extension=options.extension, convert=namespace.auto_convert, merge_adapter=options.merge_lora
    )


def _quantize(namespace: argparse.Namespace) -> None:
    options = resolve_options(QuantizeOptions, given_options(namespace, QuantizeOptions), {}, {})
    config = _config(namespace, options.logger_level)

    from segue.launcher.quantize import quantize

    quantize(config, namespace.output_dir, options)


def _config(namespace: argparse.Namespace, logger_level: str | None, *, sharded: bool | None = None) -> ServeConfig:
    """The launcher's options, those that a flag has no name for here from the environment, as TGI's shard has them."""
    given: dict[str, Any] = given_options(namespace, ServeConfig)
    if logger_level is not None:
        given["log_level"] = logger_level.lower()
    if sharded is not None:
        given["sharded"] = sharded
    environ = environment()
    for name, default in SERVE_DEFAULTS.items():
        if name.upper() not in environ:
            given.setdefault(name, default)
    config = resolve(given, environ)

    from segue.launcher.logs import set_up_logging
    from segue.launcher.shards import check_shards

    set_up_logging(config.log_level, json_output=config.json_output)
    check_shards(config, environ)
    return config
