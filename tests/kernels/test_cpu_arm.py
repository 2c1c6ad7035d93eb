"""The kernels as 64-bit Arm runs them: built by a cross compiler, run by qemu, beside float64 and the reference."""

import re
import shutil
import struct
import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
import torch
from arm_cases import MAKERS, Case
from torch import Tensor

COMPILER, EMULATOR = "aarch64-linux-gnu-g++", "qemu-aarch64-static"
MISSING = [name for name in (COMPILER, EMULATOR) if shutil.which(name) is None]
ROOT = Path(__file__).parents[2]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        bool(MISSING), reason=f"no {', no '.join(MISSING)} (Debian: g++-aarch64-linux-gnu, qemu-user-static)"
    ),
]


def found(pattern: str, text: str) -> str:
    match = re.search(pattern, text)
    assert match, pattern
    return match[1]


def build(folder: Path) -> Path:
    """The driver with CMake's sources, but for Python's, and CMake's flags."""
    lists = (ROOT / "CMakeLists.txt").read_text()
    sources_in = ROOT / found(r"set\(dir (\S+)\)", lists)
    names = re.findall(r"\$\{dir\}/(\w+)\.cpp", found(r"set\(common([^)]*)\)", lists))
    flags = {"isa_portable": found(r'COMPILE_OPTIONS\s+"([^$]*);', lists).split(";")}
    sources = [sources_in / "isa_portable.cpp", Path(__file__).with_name("arm_driver.cpp")]
    sources += [sources_in / f"{name}.cpp" for name in names if not name.startswith(("module", "bind_"))]

    def compiled(source: Path) -> Path:
        to = folder / f"{source.stem}.o"
        options = ["-std=c++17", "-O3", "-Wall", "-Wextra", f"-I{sources_in}", *flags.get(source.stem, [])]
        subprocess.run([COMPILER, *options, "-c", source, "-o", to], check=True)
        return to

    with ThreadPoolExecutor(2) as pool:
        objects = list(pool.map(compiled, sources))
    subprocess.run([COMPILER, "-static", "-pthread", *objects, "-o", folder / "driver"], check=True)
    return folder / "driver"


def outputs_of(driver: Path, num_threads: int, cases: list[Case]) -> list[Tensor]:
    given, made = driver.with_name("input"), driver.with_name("output")
    given.write_bytes(b"".join(case.encoded() for case in cases))
    subprocess.run([EMULATOR, driver, str(num_threads), given, made], check=True, env={})
    outputs, content, at = [], bytearray(made.read_bytes()), 0
    while at < len(content):
        (size,) = struct.unpack_from("<q", content, at)
        outputs.append(torch.frombuffer(content[at + 8 : at + 8 + size], dtype=torch.float32))
        at += 8 + size
    return outputs


@dataclass(frozen=True)
class Ran:
    case: Case
    by_one_thread: Tensor
    by_three: Tensor


@pytest.fixture(scope="module")
def all_ran(tmp_path_factory: pytest.TempPathFactory) -> list[Ran]:
    torch.manual_seed(0)
    cases = [make() for make in MAKERS]
    driver = build(tmp_path_factory.mktemp("arm"))
    outputs = [outputs_of(driver, num_threads, cases) for num_threads in (1, 3)]
    return [Ran(*each) for each in zip(cases, *outputs, strict=True)]


def name_of(make: "partial[Case]") -> str:
    return " ".join(str(each) for each in (make.func.__name__, *make.args, *make.keywords))


@pytest.mark.parametrize("index", range(len(MAKERS)), ids=[name_of(make) for make in MAKERS])
def test_results(index: int, all_ran: list[Ran]) -> None:
    """Close to the reference, and the same bits for any number of threads."""
    ran = all_ran[index]
    ran.case.check(ran.by_one_thread)
    assert torch.equal(ran.by_one_thread, ran.by_three)
