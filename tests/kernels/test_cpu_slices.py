"""Threads share out pieces and take each other's, and come late: compiled by itself, since a wrong turn shows in few
steps."""

import shutil
import subprocess
from pathlib import Path

import pytest

COMPILER = shutil.which("c++") or shutil.which("g++")
SOURCES = Path(__file__).parents[2] / "src" / "segue" / "kernels" / "cpu"


@pytest.mark.skipif(COMPILER is None, reason="no C++ compiler here")
@pytest.mark.parametrize(("driver", "sources"), [("slice_driver", []), ("team_driver", ["team.cpp"])])
def test_every_piece_is_done_once(driver: str, sources: list[str], tmp_path: Path) -> None:
    assert COMPILER is not None
    program = tmp_path / driver
    files = [Path(__file__).parent / f"{driver}.cpp", *(SOURCES / name for name in sources)]
    command = [COMPILER, "-std=c++17", "-O2", "-pthread", f"-I{SOURCES}", *map(str, files), "-o", str(program)]
    subprocess.run(command, check=True)
    result = subprocess.run([program], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout) == (0, "0\n")
