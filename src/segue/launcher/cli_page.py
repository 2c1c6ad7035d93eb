"""docs/cli.md, made from the options: ``python -m segue.launcher.cli_page > docs/cli.md``."""

from itertools import groupby

from segue.core.config import ConnectConfig, ServeConfig
from segue.core.options import Option, option_table
from segue.launcher.arguments import default_text
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
| `segue env` | prints the runtime environment, for bug reports |
| `text-generation-launcher` | `segue serve` with TGI's command line: the model is `--model-id` |

Exit codes of a server: 0 after a clean stop (SIGINT, SIGTERM, SIGHUP: running requests get
`--graceful-termination-timeout` seconds to end; a second signal ends at once), 1 after a failure, with
`Error: <Variant>` on standard error (`ArgumentValidation`, `DownloadError`, `ShardCannotStart`, `ShardFailed`,
`WebserverCannotStart`, `WebserverFailed`), 2 for a wrong command line.

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
    return "\n".join(sections)


def _sections(config_class: type, heading: str) -> list[str]:
    sections = []
    for title, entries in groupby(option_table(config_class), key=lambda entry: entry.group):
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
