"""One engine at a time has the well-known socket."""

import socket
import subprocess
import sys
from pathlib import Path

from segue.launcher.shard_socket import ShardSocket


def test_B1_only_one_has_it(tmp_path: Path) -> None:
    path = str(tmp_path / "engine-0")
    first, second = ShardSocket(path), ShardSocket(path)
    assert first.endpoint == f"ipc://{path}"
    assert first.claim()
    assert not second.claim()
    first.release()
    first.release()
    assert second.claim()
    second.release()


def test_B1_what_a_killed_process_held_is_free(tmp_path: Path) -> None:
    path = str(tmp_path / "engine-0")
    script = (
        f"from segue.launcher.shard_socket import ShardSocket as S\nassert S({path!r}).claim()\nimport os; os._exit(9)"
    )
    assert subprocess.run([sys.executable, "-c", script]).returncode == 9
    left = socket.socket(socket.AF_UNIX)
    left.bind(path)
    left.close()
    again = ShardSocket(path)
    assert again.claim()
    again.release()


def test_B1_places_that_cannot_be_used(tmp_path: Path) -> None:
    assert not ShardSocket(str(tmp_path / "no" / "such" / "folder")).claim()
    assert not ShardSocket(str(tmp_path / ("x" * 120))).claim()
    (tmp_path / "file").write_text("somebody's")
    assert not ShardSocket(str(tmp_path / "file")).claim()
    assert (tmp_path / "file").read_text() == "somebody's"
    (tmp_path / "link.lock").symlink_to(tmp_path / "file")
    assert not ShardSocket(str(tmp_path / "link")).claim()
