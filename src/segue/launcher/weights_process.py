"""Conversion and merging of weights in a process of its own, so that the server's never imports torch.

    python -m segue.launcher.weights_process convert FOLDER
    python -m segue.launcher.weights_process merge ADAPTER BASE OUTPUT

It says how far it is on standard output, ``done total`` in bytes a line, and why it failed on standard error.
"""

import logging
import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from segue.core.errors import ConfigError

__all__ = ["convert_weights", "merge_weights"]

logger = logging.getLogger(__name__)


def convert_weights(folder: Path) -> None:
    """``segue.launcher.bin_weights.convert_folder``. Raises ConfigError."""
    _run("Convert", "convert", folder)


def merge_weights(adapter: Path, base: Path, output: Path) -> None:
    """``segue.launcher.adapter_merge.merge_adapter``. Raises ConfigError."""
    _run("Merge", "merge", adapter, base, output)


def _run(title: str, *arguments: str | Path) -> None:
    from segue.launcher.progress import BytesBar

    command = [sys.executable, "-m", __name__, *map(str, arguments)]
    errors: list[str] = []
    with subprocess.Popen(  # noqa: S603
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        # Both pipes are read, or a child that has much to say about one waits for ever.
        reader = threading.Thread(target=lambda: errors.extend(process.stderr or ()), daemon=True)
        reader.start()
        try:
            with BytesBar(title) as bar:
                for line in process.stdout:
                    done, total = map(int, line.split())
                    bar.update(done, total)
                    logger.info("%s: [%d/%d MB]", title, done // 10**6, total // 10**6)
        except BaseException:
            process.kill()
            raise
        code = process.wait()
        reader.join()
    if code != 0:
        raise ConfigError(next((line.strip() for line in reversed(errors) if line.strip()), f"{title} failed"))


def _main(arguments: Sequence[str]) -> None:
    def report(done: int, total: int) -> None:
        print(done, total, flush=True)

    command, *paths = arguments
    if command == "convert":
        from segue.launcher.bin_weights import convert_folder

        convert_folder(Path(paths[0]), report)
    else:
        from segue.launcher.adapter_merge import merge_adapter

        merge_adapter(Path(paths[0]), Path(paths[1]), Path(paths[2]), report)


if __name__ == "__main__":
    # No traceback of ours: the parent shows the last line.
    try:
        _main(sys.argv[1:])
    except Exception as error:
        text = str(error).splitlines()[0] if str(error) else repr(error)
        print(text if isinstance(error, ConfigError) else f"{type(error).__name__}: {text}", file=sys.stderr)
        sys.stderr.flush()
        os._exit(1)
