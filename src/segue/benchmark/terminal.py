"""Single key presses of a terminal, as an event loop hears them."""

import asyncio
import contextlib
import os
import sys
import termios
import tty
from collections.abc import Callable, Iterator

__all__ = ["keys", "parse_keys"]

_SEQUENCES = {"\x1b[C": "right", "\x1b[D": "left", "\x1bOC": "right", "\x1bOD": "left", "\t": "tab"}


@contextlib.contextmanager
def keys(on_key: Callable[[str], None]) -> Iterator[None]:
    """Have ``on_key`` called in this event loop for each key on standard input, which is a terminal."""
    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    loop = asyncio.get_running_loop()

    def read() -> None:
        for key in parse_keys(os.read(descriptor, 1024).decode("utf-8", "replace")):
            on_key(key)

    tty.setcbreak(descriptor)
    loop.add_reader(descriptor, read)
    try:
        yield
    finally:
        loop.remove_reader(descriptor)
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


def parse_keys(text: str) -> list[str]:
    """Names of the arrow keys and of tab; other characters as they are."""
    found = []
    while text:
        sequence = next((each for each in _SEQUENCES if text.startswith(each)), text[0])
        found.append(_SEQUENCES.get(sequence, sequence))
        text = text[len(sequence) :]
    return found
