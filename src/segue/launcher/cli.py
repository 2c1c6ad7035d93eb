"""The commands ``segue`` and ``text-generation-launcher``. Parses and dispatches; a command imports what it needs."""

import argparse
import logging
import sys
from collections.abc import Sequence

from segue._version import __version__
from segue.core.config import ConnectConfig, OptionError, ServeConfig, environment, resolve, resolve_connect
from segue.core.options import resolve_options
from segue.launcher.arguments import Parser, add_options, given_options
from segue.launcher.exit_codes import run_command

__all__ = ["main", "text_generation_launcher"]

SAMPLE_MODEL = "sample-chat"

_HELP = """\
Serve language models over the API of Text Generation Inference, and over OpenAI's.

  segue serve                     serve the small model that comes with Segue, on port 3000
  segue serve MODEL               serve a folder in Hugging Face layout, or a model of the Hub
  segue generate "Once upon"      ask a running server, and see the answer grow
  segue chat                      talk with a running server
"""
_HELP_END = """\
examples:
  segue serve Qwen/Qwen2.5-0.5B-Instruct --port 8080
  segue chat --url http://127.0.0.1:8080
  curl 127.0.0.1:3000/generate -H 'Content-Type: application/json' \\
       -d '{"inputs": "Once upon a time", "parameters": {"max_new_tokens": 40}}'

Each flag of `segue serve` is also an environment variable: --port is PORT. `segue serve --help` lists them all.
`text-generation-launcher` is the same server with the command line of Text Generation Inference.
"""
_SERVE_HELP = """\
Serve MODEL until Ctrl-C: a folder in Hugging Face layout, a name on the Hub, sample-chat (the default) or sample-t5.
A flag beats its environment variable, which beats the default. The address is http://127.0.0.1:3000, its page /docs.
"""
_LAUNCHER_HELP = """\
Serve a model with the command line of Text Generation Inference. Segue's own command is `segue serve`.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """``segue``. Returns the exit code: 0 done, 1 failed, 2 a wrong command line."""
    namespace = _segue_parser().parse_args(arguments)
    return run_command(namespace.run, namespace)


def text_generation_launcher(arguments: Sequence[str] | None = None) -> int:
    """``text-generation-launcher``: TGI's flags, defaults and exit codes."""
    parser = Parser(prog="text-generation-launcher", usage="%(prog)s [OPTIONS]", description=_LAUNCHER_HELP)
    parser.add_argument("-V", "--version", action="version", version=f"text-generation-launcher {__version__} (segue)")
    add_options(parser, ServeConfig)
    return run_command(_launch, parser.parse_args(arguments))


def _segue_parser() -> Parser:
    parser = Parser(prog="segue", usage="segue COMMAND [OPTIONS]", description=_HELP, epilog=_HELP_END)
    parser.add_argument("-V", "--version", action="version", version=f"segue {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    serve = commands.add_parser(
        "serve", help="serve a model", usage="segue serve [MODEL] [OPTIONS]", description=_SERVE_HELP
    )
    serve.add_argument("model", metavar="MODEL", nargs="?", help="what to serve; default: sample-chat")
    add_options(serve, ServeConfig)
    serve.set_defaults(run=_serve)

    from segue.launcher.talk import ChatOptions, GenerateOptions

    generate = commands.add_parser(
        "generate",
        help="stream one generation of a running server",
        usage='segue generate "PROMPT" [OPTIONS]',
        description="Continue PROMPT on a running server and print the text as it comes.",
    )
    generate.add_argument("prompt", metavar="PROMPT", nargs="?", help="default: read from standard input")
    add_options(generate, GenerateOptions)
    add_options(generate, ConnectConfig)
    generate.set_defaults(run=_generate)

    chat = commands.add_parser(
        "chat",
        help="talk with a running server",
        usage="segue chat [OPTIONS]",
        description="Talk with a running server. Ctrl-C stops an answer, Ctrl-D ends.",
    )
    add_options(chat, ChatOptions)
    add_options(chat, ConnectConfig)
    chat.set_defaults(run=_chat)

    from segue.launcher.quantize_command import SHARED_OPTIONS, QuantizeCommandOptions

    quantize = commands.add_parser(
        "quantize",
        help="write a checkpoint with weights in few bits",
        usage="segue quantize MODEL OUTPUT [OPTIONS]",
        description="Round MODEL's weights, write the result to the new folder OUTPUT and say what that changed.",
    )
    quantize.add_argument("model", metavar="MODEL", help="a folder, a name on the Hub, or a sample")
    quantize.add_argument("output", metavar="OUTPUT", help="a folder that does not exist or is empty")
    add_options(quantize, QuantizeCommandOptions)
    add_options(quantize, ServeConfig, SHARED_OPTIONS)
    quantize.set_defaults(run=_quantize)

    from segue.conformance import cli as conformance
    from segue.conformance.options import CheckOptions
    from segue.containers.cli import add_commands

    check = conformance.add_command(commands)
    add_options(check, CheckOptions)
    check.set_defaults(run=_check)
    add_commands(commands)

    report = commands.add_parser(
        "env", help="print the runtime environment, for bug reports", usage="segue env", description="For bug reports."
    )
    report.set_defaults(run=_environment)
    return parser


def _serve(namespace: argparse.Namespace) -> None:
    given = given_options(namespace, ServeConfig)
    if namespace.model is not None:
        if "model_id" in given:
            raise OptionError("the model is named twice: MODEL and --model-id")
        given["model_id"] = namespace.model
    _serve_config(resolve(given, default_model=SAMPLE_MODEL))


def _launch(namespace: argparse.Namespace) -> None:
    _serve_config(resolve(given_options(namespace, ServeConfig)))


def _serve_config(config: ServeConfig) -> None:
    from segue.launcher.logs import set_up_logging

    set_up_logging(config.log_level, json_output=config.json_output)
    if config.env:
        _report_environment(config)
    from segue.launcher.processes import serve

    serve(config)


def _report_environment(config: ServeConfig) -> None:
    """Among JSON lines as one of them."""
    from segue.launcher.environment_report import environment_report

    if config.json_output:
        logging.getLogger(__name__).info("%s", environment_report())
    else:
        print(environment_report(), flush=True)


def _generate(namespace: argparse.Namespace) -> None:
    from segue.launcher import talk

    prompt = namespace.prompt if namespace.prompt is not None else sys.stdin.read()
    options = talk.GenerateOptions(**given_options(namespace, talk.GenerateOptions))
    talk.generate(prompt, options, resolve_connect(given_options(namespace, ConnectConfig)))


def _chat(namespace: argparse.Namespace) -> None:
    from segue.launcher import talk

    options = talk.ChatOptions(**given_options(namespace, talk.ChatOptions))
    talk.chat(options, resolve_connect(given_options(namespace, ConnectConfig)))


def _quantize(namespace: argparse.Namespace) -> None:
    from segue.launcher.quantize_command import QuantizeCommandOptions, quantize

    options = resolve_options(QuantizeCommandOptions, given_options(namespace, QuantizeCommandOptions), {}, {})
    config = resolve({**given_options(namespace, ServeConfig), "model_id": namespace.model})
    quantize(config, namespace.output, options)


def _check(namespace: argparse.Namespace) -> None:
    from segue.conformance.cli import run
    from segue.conformance.options import CheckOptions

    environ = environment()
    options = resolve_options(CheckOptions, given_options(namespace, CheckOptions), environ, {})
    raise SystemExit(run(options, environ))


def _environment(_: argparse.Namespace | None) -> None:
    from segue.launcher.environment_report import environment_report

    print(environment_report(), flush=True)
