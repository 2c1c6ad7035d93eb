"""Where an engine listens for programs that did not start it: TGI's ``/tmp/text-generation-server-0``.

A lock beside the socket says whose it is, so that two servers on a machine cannot take it from each other: an engine
replaces a socket that it finds. The kernel drops the lock with its owner, however that ends.
"""

import fcntl
import os
import stat
from pathlib import Path

__all__ = ["ShardSocket"]

MAX_PATH_BYTES = 107
"""Of a Unix socket's address, less its terminator."""


class ShardSocket:
    """A path that one process at a time may claim."""

    def __init__(self, path: str) -> None:
        self.path = Path(path)
        self._lock: int | None = None

    @property
    def endpoint(self) -> str:
        return f"ipc://{self.path}"

    def claim(self) -> bool:
        """Whether the path is this process's now, until ``release`` or its end."""
        if len(os.fsencode(self.path)) > MAX_PATH_BYTES:
            return False
        try:
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            lock = os.open(self.path.with_name(self.path.name + ".lock"), flags, 0o600)
        except OSError:  # no such folder, or another user's lock
            return False
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not self._is_free_or_left_behind():
                raise BlockingIOError
        except OSError:
            os.close(lock)
            return False
        self._lock = lock
        return True

    def release(self) -> None:
        """Let others have it, and leave no socket that nobody listens on. May be called again."""
        if self._lock is not None:
            self.path.unlink(missing_ok=True)
            os.close(self._lock)
            self._lock = None

    def _is_free_or_left_behind(self) -> bool:
        """Nothing is there, or the socket of an engine of ours that was killed."""
        try:
            found = os.lstat(self.path)
        except FileNotFoundError:
            return True
        return stat.S_ISSOCK(found.st_mode) and found.st_uid == os.geteuid()
