"""What can be known of the images without building them; tests/containers/test_image.py builds one."""

import re
import shlex
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = ("Dockerfile", "Dockerfile.cuda")


def _instructions(name: str) -> list[str]:
    """One line each, without comments."""
    lines = [line for line in (ROOT / "deploy" / name).read_text().splitlines() if not line.startswith("#")]
    return [line for line in "\n".join(lines).replace("\\\n", "").splitlines() if line.strip()]


def _stages(name: str) -> dict[str, list[str]]:
    stages: dict[str, list[str]] = {}
    for line in _instructions(name):
        if line.startswith("FROM"):
            stages[line.rpartition(" AS ")[2] if " AS " in line else ""] = []
        elif stages:
            list(stages.values())[-1].append(line)
    return stages


@pytest.mark.parametrize("name", FILES)
def test_F12_tgis_environment(name: str) -> None:
    stages = _stages(name)
    (env,) = (line for line in stages["base"] if line.startswith("ENV"))
    assert {"PORT=80", "HF_HOME=/data"} <= set(env.split())
    (google,) = (line for line in stages["google"] if line.startswith("ENV"))
    assert {"PORT=8080", "HF_HOME=/tmp"} <= set(google.split())


@pytest.mark.parametrize("name", FILES)
def test_entry_points_are_there_and_can_be_run(name: str) -> None:
    found = {line.split('"')[1] for line in _instructions(name) if line.startswith("ENTRYPOINT")}
    scripts = {path.name for path in (ROOT / "deploy").glob("*entrypoint.sh")}
    assert {Path(path).name for path in found} == scripts
    assert all((ROOT / "deploy" / script).stat().st_mode & 0o111 for script in scripts)


@pytest.mark.parametrize("name", FILES)
def test_everything_that_is_copied_is_in_the_context(name: str) -> None:
    """``.dockerignore`` lets in what it names, and nothing else."""
    let_in = {line[1:] for line in (ROOT / ".dockerignore").read_text().split() if line.startswith("!")}
    for line in _instructions(name):
        if line.startswith("COPY") and "--from" not in line:
            for source in shlex.split(line)[1:-1]:
                assert source.split("/")[0] in let_in
                assert list(ROOT.glob(source)), f"{source} does not exist"


def test_the_two_differ_only_where_the_gpu_asks_for_it() -> None:
    cpu, cuda = (set(_instructions(name)) for name in FILES)
    assert all(re.search(r"torch|NVIDIA|PORT=80", line) for line in cpu - cuda)
    assert all(re.search(r"torch|NVIDIA|apt-get", line) for line in cuda - cpu)
