"""``segue generate`` and ``segue chat``: a running server's answers on the terminal."""

import contextlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from segue.core.config import ConnectConfig
from segue.core.errors import SegueError
from segue.core.options import option

if TYPE_CHECKING:
    from segue.client import Client

__all__ = ["ChatOptions", "GenerateOptions", "TalkError", "chat", "generate"]


class TalkError(SegueError):
    """The server does not answer as it should; the text says what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerateOptions:
    """How ``segue generate`` asks. What is not given is the server's default: the likeliest token each time."""

    max_new_tokens: int = option(100, "Most tokens to generate.", group="Generation", env=(), short="-n")
    temperature: float | None = option(None, "Above 0; higher is more varied.", group="Generation", env=(), metavar="T")
    top_k: int | None = option(None, "Choose among the K likeliest tokens.", group="Generation", env=(), metavar="K")
    top_p: float | None = option(
        None, "Choose among the likeliest tokens that sum up to P.", group="Generation", env=(), metavar="P"
    )
    repetition_penalty: float | None = option(
        None, "Above 1: say less of it twice.", group="Generation", env=(), metavar="R"
    )
    seed: int | None = option(None, "The same seed gives the same text.", group="Generation", env=())
    stop: str | None = option(None, "End after this text.", group="Generation", env=(), metavar="TEXT")


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatOptions:
    """How ``segue chat`` asks."""

    system: str | None = option(
        None, "What the model is told before the conversation.", group="Conversation", env=(), metavar="TEXT"
    )
    max_tokens: int | None = option(
        None, "Most tokens of an answer. Default: the server's.", group="Conversation", env=(), short="-n"
    )
    temperature: float | None = option(
        None, "0 for the likeliest answer; higher is more varied.", group="Conversation", env=(), metavar="T"
    )
    top_p: float | None = option(
        None, "Choose among the likeliest tokens that sum up to P.", group="Conversation", env=(), metavar="P"
    )
    seed: int | None = option(None, "The same seed gives the same answers.", group="Conversation", env=())


def generate(prompt: str, options: GenerateOptions, connect: ConnectConfig) -> None:
    """Print the continuation of ``prompt`` while it is made. Raises TalkError."""
    if not prompt:
        raise TalkError('there is no prompt: segue generate "Once upon a time"')
    parameters = _given(options)
    with _client(connect) as client, _explained(connect), client.generate(prompt, stream=True, **parameters) as stream:
        _print_all(stream.text_deltas())


def chat(options: ChatOptions, connect: ConnectConfig) -> None:
    """Read lines, print answers, until the end of the input. Raises TalkError."""
    parameters = _given(options)
    system = parameters.pop("system", None)
    beginning = [{"role": "system", "content": system}] if system else []
    messages = list(beginning)
    with _client(connect) as client:
        with _explained(connect):
            model = client.info().model_id
        is_terminal = sys.stdin.isatty()
        if is_terminal:
            print(f"{model} at {connect.url}. /clear forgets the conversation, Ctrl-D ends.", file=sys.stderr)
        while (line := _read_line(is_terminal)) is not None:
            if line == "/clear":
                messages = list(beginning)
            elif line:
                messages.append({"role": "user", "content": line})
                with _explained(connect):
                    answer = _answer(client, messages, parameters)
                messages.append({"role": "assistant", "content": answer})


def _answer(client: "Client", messages: list[dict[str, str]], parameters: dict[str, Any]) -> str:
    """Print the answer as it comes; Ctrl-C keeps what is there."""
    with client.chat.create(messages, stream=True, **parameters) as stream:
        try:
            _print_all(stream.text_deltas())
        except KeyboardInterrupt:
            print(" …")
        return str(stream.text)


def _print_all(pieces: Iterator[str]) -> None:
    last = ""
    for piece in pieces:
        print(piece, end="", flush=True)
        last = piece
    if not last.endswith("\n"):
        print(flush=True)


def _read_line(is_terminal: bool) -> str | None:
    """None at the end of the input."""
    if not is_terminal:
        line = sys.stdin.readline()
        return line.strip() if line else None
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  (gives input() a history)
    try:
        return input("> ").strip()
    except EOFError:
        print()
        return None


def _given(options: GenerateOptions | ChatOptions) -> dict[str, Any]:
    values = {name: getattr(options, name) for name in options.__slots__}
    return {name: value for name, value in values.items() if value is not None}


def _client(connect: ConnectConfig) -> "Client":
    from segue.client import Client

    return Client(connect.url, api_key=connect.api_key, timeout=connect.timeout, max_retries=0)


@contextlib.contextmanager
def _explained(connect: ConnectConfig) -> Iterator[None]:
    """The client's errors, in the words of somebody who typed a command."""
    from segue.client import APIConnectionError, APIStatusError, APITimeoutError, AuthenticationError, TGIError

    try:
        yield
    except APITimeoutError as error:
        raise TalkError(f"{connect.url} did not answer in time: {error}") from error
    except AuthenticationError as error:
        raise TalkError(f"{connect.url} asks for a key: give --api-key, or set SEGUE_API_KEY") from error
    except APIStatusError as error:
        raise TalkError(error.message) from error
    except APIConnectionError as error:
        raise TalkError(
            f"no server answers at {connect.url}. Start one with `segue serve`, or name another with --url."
        ) from error
    except TGIError as error:
        raise TalkError(str(error)) from error
