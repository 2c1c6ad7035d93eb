"""``segue container up | down | status | logs`` and ``segue recommend``.

Exit codes: 0 done, 1 failed, 2 a wrong command line, 3 not ready in time, 4 nothing here can run it, 130 interrupted.
Each command's function is in the namespace as ``run``; it raises SystemExit for a code of its own.
"""

import argparse
import contextlib
import json
import logging
import shlex
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Literal, NoReturn

from segue.containers.errors import ContainerError
from segue.containers.presets import PRESETS, preset
from segue.containers.spec import Gpus, OptionValue
from segue.core.errors import ConfigError, SegueError
from segue.core.recommend import INSTANCES

if TYPE_CHECKING:
    from segue.containers.container import Container, ContainerStatus
    from segue.containers.runtime import Runtime

__all__ = ["add_commands"]

Subparsers = Any  # argparse's own name for it is private
RuntimeName = Literal["docker", "process"]

_EXIT_CODES = {"timeout": 3, "docker_missing": 4, "command_missing": 4}
_RUNTIMES: tuple[RuntimeName, ...] = ("process", "docker")
_UP_HELP = """\
Start a server, wait until it answers, and leave it running; its address is printed. The launcher's own options follow
-o: segue container up MODEL -o max-total-tokens=2048
"""


def add_commands(commands: Subparsers) -> None:
    """``commands``: what ``ArgumentParser.add_subparsers`` returned."""
    container = commands.add_parser(
        "container",
        help="start, watch and stop a server in a container",
        usage="segue container COMMAND [OPTIONS]",
        description="Servers in containers (Docker, or Podman's service), or as plain processes.",
    )
    actions = container.add_subparsers(prog="segue container", title="commands", metavar="COMMAND", required=True)
    _add_up(actions)
    down = actions.add_parser("down", help="stop and remove", usage="segue container down NAME… [OPTIONS]")
    down.add_argument("names", metavar="NAME", nargs="*", help="as `segue container status` lists them")
    down.add_argument("--all", action="store_true", help="All that were started from here.")
    down.add_argument("--grace", type=float, default=30.0, metavar="SECONDS", help="Time for running requests. [30]")
    status = actions.add_parser("status", help="what runs", usage="segue container status [NAME] [OPTIONS]")
    status.add_argument("name", metavar="NAME", nargs="?", help="default: all that were started from here")
    status.add_argument("--json", action="store_true", help="As JSON.")
    logs = actions.add_parser("logs", help="the last lines of the output", usage="segue container logs NAME [OPTIONS]")
    logs.add_argument("name", metavar="NAME")
    logs.add_argument("-n", "--tail", type=_at_least(0), default=100, metavar="N", help="Number of lines. [100]")
    for parser, run in ((down, _down), (status, _status), (logs, _logs)):
        parser.add_argument("--runtime", choices=_RUNTIMES, help="Look there only.")
        parser.set_defaults(run=_reported(run))
    _add_recommend(commands)


def _add_up(actions: Subparsers) -> None:
    up = actions.add_parser(
        "up",
        help="start a server and wait until it is ready",
        usage="segue container up MODEL [OPTIONS]",
        description=_UP_HELP,
    )
    up.add_argument("model", metavar="MODEL", help="a name on the Hub, or a path as the server sees it")
    up.add_argument("-o", "--option", action="append", default=[], metavar="NAME=VALUE", help="Of the launcher.")
    up.add_argument("--arg", action="append", default=[], metavar="TEXT", help="For the image's program, as it is.")
    up.add_argument("--runtime", choices=_RUNTIMES, default="docker", help="[docker]")
    up.add_argument("--preset", choices=tuple(PRESETS), default="segue", help="Image and its settings. [segue]")
    up.add_argument("--image", help="Another image than the preset's.")
    up.add_argument("--name", help="Default: made of the model's name.")
    up.add_argument("--host", metavar="ADDRESS", help="Address of this machine to publish on.")
    up.add_argument("--port", type=int, help="Port of this machine. [segue: any that is free; others: 8080]")
    up.add_argument("--gpus", type=_gpus, metavar="GPUS", help="all, none, a number, or device=ID,ID")
    up.add_argument("--device", action="append", default=[], metavar="CDI", help="Such as nvidia.com/gpu=0.")
    up.add_argument("--cpus", type=float, metavar="N", help="At most so many.")
    up.add_argument("--memory", metavar="SIZE", help="At most so much, e.g. 8g.")
    up.add_argument("--shm-size", metavar="SIZE", help="Size of /dev/shm.")
    up.add_argument("-v", "--volume", action="append", default=[], metavar="HOST:INSIDE", help="E.g. $PWD/data:/data")
    up.add_argument("--network", help="host, or a network of the engine.")
    up.add_argument("-e", "--env", action="append", default=[], metavar="NAME=VALUE", help="Not for secrets.")
    up.add_argument(
        "--secret",
        action="append",
        default=[],
        metavar="NAME",
        help="Variable to pass on with the value that it has here. HF_TOKEN is, unless the preset leaves it out.",
    )
    up.add_argument("--label", action="append", default=[], metavar="NAME=VALUE", help="For finding it again.")
    up.add_argument("--timeout", type=float, default=600.0, metavar="SECONDS", help="Longest wait. [600]")
    up.add_argument("--dry-run", action="store_true", help="Print the command that would do the same, and end.")
    up.set_defaults(run=_reported(_up))


def _add_recommend(commands: Subparsers) -> None:
    recommend = commands.add_parser(
        "recommend",
        help="which GPUs and limits a model wants",
        usage="segue recommend MODEL [OPTIONS]",
        description="From the model's config.json. `exact` plans its memory, `compat` is Hugging Face's old formula.",
    )
    recommend.add_argument("model", metavar="MODEL", help="a folder, or a name on the Hub")
    recommend.add_argument("--gpu-memory", type=float, metavar="GB", help="Memory of one GPU.")
    recommend.add_argument("--num-gpus", type=_at_least(1), metavar="N", help="GPUs to use. [exact: as few as can be]")
    recommend.add_argument("--provider", choices=tuple(INSTANCES), help="Choose among its machines.")
    recommend.add_argument("--mode", choices=("exact", "compat"), default="exact", help="[exact]")
    recommend.add_argument("--offline", action="store_true", help="Do not look on the Hub.")
    recommend.add_argument("--format", choices=("text", "json", "env"), default="text", help="[text]")
    recommend.set_defaults(run=_reported(_recommend))


def _up(namespace: argparse.Namespace) -> None:
    from segue.containers.container import Container

    spec = preset(namespace.preset, namespace.model, **_changes(namespace))
    if namespace.dry_run:
        print(shlex.join(spec.process_argv() if namespace.runtime == "process" else spec.docker_argv()))
        return
    _log_to_stderr()
    container = Container(spec, runtime=namespace.runtime, keep=True)
    try:
        with _ended_by_sigterm():
            container.start(timeout=namespace.timeout)
        print(container.url)
        print(f"{container.name} is ready; `segue container down {container.name}` ends it", file=sys.stderr)
    finally:
        container.close()


def _changes(namespace: argparse.Namespace) -> dict[str, Any]:
    """The fields of the spec that were given."""
    given = {name: getattr(namespace, name) for name in ("image", "name", "port", "cpus", "memory", "network")}
    given |= {"host": namespace.host, "shm_size": namespace.shm_size}
    changes = {name: value for name, value in given.items() if value is not None}
    if namespace.gpus is not None:
        changes["gpus"] = None if namespace.gpus == "none" else namespace.gpus
    lists = {"devices": namespace.device, "volumes": namespace.volume, "args": namespace.arg}
    changes |= {name: tuple(values) for name, values in lists.items() if values}
    if namespace.option:
        changes["options"] = dict(_option(text) for text in namespace.option)
    if namespace.env:
        changes["env"] = dict(_pair(text, "--env") for text in namespace.env)
    if namespace.label:
        changes["labels"] = dict(_pair(text, "--label") for text in namespace.label)
    if namespace.secret:
        own = PRESETS[namespace.preset].get("secrets", ("HF_TOKEN",))
        changes["secrets"] = tuple(dict.fromkeys((*own, *namespace.secret)))
    return changes


def _down(namespace: argparse.Namespace) -> None:
    if bool(namespace.names) == namespace.all:
        _usage("name the servers to stop, or say --all")
    with _opened(namespace.runtime) as runtimes:
        names = namespace.names
        if namespace.all:
            names = [record.name for runtime in runtimes for record in runtime.records()]
        for name in dict.fromkeys(names):
            _attached(name, runtimes).stop(grace=namespace.grace)
            print(f"{name} is gone", file=sys.stderr)


def _status(namespace: argparse.Namespace) -> None:
    with _opened(namespace.runtime) as runtimes:
        if namespace.name is not None:
            containers = [_attached(namespace.name, runtimes)]
        else:
            names = dict.fromkeys(record.name for runtime in runtimes for record in runtime.records())
            containers = [_attached(name, runtimes) for name in names]
        found = [container.status() for container in containers]
    if namespace.json:
        print(json.dumps([asdict(status) for status in found], indent=2))
        return
    for status in found:
        print("\t".join((status.name, _state(status), status.url or "-", status.model_id or "-", status.image or "-")))


def _state(status: "ContainerStatus") -> str:
    if status.state == "running":
        return "ready" if status.is_ready else "not ready"
    return status.state if status.exit_code is None else f"{status.state} ({status.exit_code})"


def _logs(namespace: argparse.Namespace) -> None:
    with _opened(namespace.runtime) as runtimes:
        print(_attached(namespace.name, runtimes).logs(namespace.tail))


def _recommend(namespace: argparse.Namespace) -> None:
    from segue.containers.recommend import recommend

    found = recommend(
        namespace.model,
        namespace.gpu_memory,
        namespace.num_gpus,
        namespace.provider,
        namespace.mode,
        offline=namespace.offline,
    )
    if namespace.format == "json":
        extra = {"max_batch_total_tokens": found.max_batch_total_tokens, "breakdown": dict(found.breakdown)}
        print(json.dumps(found.as_wire() | (extra if found.breakdown else {}), indent=2))
    elif namespace.format == "env":
        print("\n".join(f"{name}={value}" for name, value in found.to_env().items()))
    else:
        rows: dict[str, object] = {"instance": found.instance, **found.as_wire()["configuration"]}
        rows["max_batch_total_tokens"] = found.max_batch_total_tokens
        rows |= {f"GB on each GPU: {name.replace('_', ' ')}": value for name, value in found.breakdown.items()}
        for name, value in rows.items():
            if value is not None:
                print(f"{name:<40} {value}")


@contextlib.contextmanager
def _opened(name: RuntimeName | None) -> "Iterator[list[Runtime]]":
    """The runtimes to look in. A Docker engine that was not asked for by name need not be there."""
    from segue.containers.container import open_runtime

    with contextlib.ExitStack() as stack:
        opened = []
        for each in _RUNTIMES if name is None else (name,):
            try:
                runtime = open_runtime(each)
            except ContainerError:
                if name is not None:
                    raise
                continue
            stack.callback(runtime.close)
            opened.append(runtime)
        yield opened


def _attached(name: str, runtimes: "list[Runtime]") -> "Container":
    from segue.containers.container import Container

    for runtime in runtimes:
        if runtime.find(name) is not None:
            return Container.attach(name, runtime=runtime)
    raise ContainerError("not_found", f"there is no server named '{name}'")


def _reported(run: Callable[[argparse.Namespace], None]) -> Callable[[argparse.Namespace], None]:
    """``run`` with our errors as one message and an exit code."""

    def reported(namespace: argparse.Namespace) -> None:
        try:
            run(namespace)
        except ContainerError as error:
            _fail(str(error), _EXIT_CODES.get(error.kind, 1))
        except SegueError as error:
            _fail(str(error), 2 if isinstance(error, ConfigError) else 1)

    return reported


def _fail(message: str, code: int) -> NoReturn:
    print(f"error: {message}", file=sys.stderr)
    raise SystemExit(code)


def _usage(message: str) -> NoReturn:
    _fail(f"{message}\n\nFor more information, try '--help'.", 2)


@contextlib.contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """SIGTERM and SIGHUP unwind, as Ctrl-C does: what is being started is removed again."""

    def unwind(number: int, _: object) -> NoReturn:
        raise SystemExit(128 + number)

    before = {number: signal.signal(number, unwind) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _log_to_stderr() -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    package = logging.getLogger("segue.containers")
    package.addHandler(handler)
    package.setLevel(logging.INFO)


def _gpus(text: str) -> Gpus | Literal["none"]:
    if text == "all":
        return "all"
    if text == "none":
        return "none"
    if text.isdecimal() and int(text) > 0:
        return int(text)
    ids = text.removeprefix("device=")
    if text != ids and all(ids.split(",")):
        return tuple(ids.split(","))
    raise argparse.ArgumentTypeError(f"'{text}' is neither all, none, a number nor device=ID,ID")


def _pair(text: str, flag: str) -> tuple[str, str]:
    name, separator, value = text.partition("=")
    if not (name and separator):
        raise ConfigError(f"'{text}' for '{flag}' is not NAME=VALUE")
    return name, value


def _option(text: str) -> tuple[str, OptionValue]:
    name, value = _pair(text, "--option")
    name = name.replace("-", "_")
    is_switch = value in ("true", "false")
    return name, value == "true" if is_switch else value


def _at_least(minimum: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not text.isdecimal() or int(text) < minimum:
            raise argparse.ArgumentTypeError(f"'{text}' is not a number of at least {minimum}")
        return int(text)

    return parse
