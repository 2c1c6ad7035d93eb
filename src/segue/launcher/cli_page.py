"""docs/cli.md, made from the options: ``python -m segue.launcher.cli_page > docs/cli.md``."""

import dataclasses
from collections.abc import Collection, Mapping
from itertools import groupby
from typing import Any

from segue.benchmark.options import BenchmarkOptions
from segue.core.config import ConnectConfig, ServeConfig
from segue.core.options import Option, option_table
from segue.launcher.arguments import default_text
from segue.launcher.quantize_command import SHARED_OPTIONS, QuantizeCommandOptions
from segue.launcher.router_command import ROUTER_DEFAULTS, ROUTER_OPTIONS, RouterConfig
from segue.launcher.server_command import (
    DOWNLOAD_OPTIONS,
    SERVE_DEFAULTS,
    SERVE_OPTIONS,
    DownloadOptions,
    EngineOptions,
    QuantizeOptions,
)
from segue.launcher.talk import ChatOptions, GenerateOptions

__all__ = ["cli_page"]

_BEGINNING = """\
# Command line

Made by `python -m segue.launcher.cli_page`; a test compares.

| command | does |
|---|---|
| `segue serve [MODEL]` | serves a folder in Hugging Face layout, a model of the Hub, or (default) `sample-chat` |
| `segue generate "PROMPT"` | streams one generation of a running server to the terminal |
| `segue chat` | talks with a running server |
| `segue quantize MODEL OUTPUT` | writes a checkpoint with weights in few bits, and measures its perplexity |
| `segue env` | prints the runtime environment, for bug reports |
| `text-generation-launcher` | `segue serve` with TGI's command line: the model is `--model-id` |
| `text-generation-server serve MODEL_ID` | an engine without HTTP |
| `text-generation-router` | HTTP for such an engine; `print-schema` prints the OpenAPI document |
| `text-generation-server download-weights MODEL_ID` | fetches a model, merges an adapter, converts `.bin` weights |
| `text-generation-server quantize MODEL_ID OUTPUT_DIR` | writes a checkpoint with weights of 4 bits by GPTQ |
| `text-generation-benchmark` | measures an engine that runs |

[commands.md](commands.md) shows TGI's commands at work.

Exit codes of a server: 0 after a clean stop (SIGINT, SIGTERM, SIGHUP: running requests get
`--graceful-termination-timeout` seconds to end; a second signal ends at once), 1 after a failure, with
`Error: <Variant>` on standard error (`ArgumentValidation`, `NotEnoughCUDADevices`, `DownloadError`,
`ShardCannotStart`, `ShardFailed`, `WebserverCannotStart`, `WebserverFailed`), 2 for a wrong command line.

## Options of `segue serve` and `text-generation-launcher`

A flag beats its environment variable, which beats the default. Names are TGI's where TGI has the option. A switch needs
no value; its variable takes `true` or `false`. An empty variable counts as unset. An unknown flag is an error.
"""


def cli_page() -> str:
    """The page, as Markdown."""
    sections = [_BEGINNING]
    sections += _sections(ServeConfig, "###")
    for command, config_classes in (
        ("segue generate", (GenerateOptions, ConnectConfig)),
        ("segue chat", (ChatOptions, ConnectConfig)),
    ):
        sections.append(f"## Options of `{command}`\n")
        for config_class in config_classes:
            sections += _sections(config_class, "###")
    sections.append("## Options of `segue quantize`\n")
    sections += _sections(QuantizeCommandOptions, "###")
    sections += _sections(ServeConfig, "###", SHARED_OPTIONS)
    sections.append(_SHARED)
    sections.append("## Options of `text-generation-router`\n")
    sections += _sections(RouterConfig, "###")
    sections += _sections(ServeConfig, "###", ROUTER_OPTIONS, ROUTER_DEFAULTS)
    for command, own, shared in (
        ("serve", EngineOptions, SERVE_OPTIONS),
        ("download-weights", DownloadOptions, DOWNLOAD_OPTIONS),
        ("quantize", QuantizeOptions, DOWNLOAD_OPTIONS),
    ):
        sections.append(f"## Options of `text-generation-server {command}`\n")
        sections += _sections(own, "###")
        sections += _sections(ServeConfig, "###", shared, SERVE_DEFAULTS)
    sections.append("## Options of `text-generation-benchmark`\n")
    sections += _sections(BenchmarkOptions, "###")
    return "\n".join(sections)


_SHARED = """\
TGI's other commands read all variables of the launcher that concern them, as TGI's do; listed are their flags.
"""


def _sections(
    config_class: type,
    heading: str,
    names: Collection[str] | None = None,
    defaults: Mapping[str, Any] | None = None,
) -> list[str]:
    """All options, or those of ``names`` that have a flag, with other ``defaults`` than the class's."""
    sections = []
    table = [
        dataclasses.replace(entry, default=(defaults or {}).get(entry.name, entry.default))
        for entry in option_table(config_class)
        if names is None or (entry.name in names and entry.flag is not None)
    ]
    for title, entries in groupby(table, key=lambda entry: entry.group):
        rows = [_row(entry) for entry in entries]
        has_variables = any(row[1] for row in rows)
        header = ("flag", "variable", "default", "meaning")
        lines = [f"{heading} {title}\n"]
        for row in (header, ("---",) * 4, *rows):
            cells = row if has_variables else (row[0], *row[2:])
            lines.append(f"| {' | '.join(cells)} |")
        sections.append("\n".join(lines) + "\n")
    return sections


def _row(entry: Option) -> tuple[str, str, str, str]:
    flag = ", ".join(f"`{name}`" for name in (entry.short, entry.flag) if name)
    variables = ", ".join(f"`{name}`" for name in entry.env)
    default = "" if entry.default in (None, ()) or entry.is_switch else f"`{default_text(entry)}`"
    choices = f" One of {', '.join(f'`{choice}`' for choice in entry.choices)}." if entry.choices else ""
    return flag, variables, default, entry.help + choices


if __name__ == "__main__":
    print(cli_page(), end="")
