"""Where the tests' servers run: plain processes, and, where there is a container engine, containers.

The engine is the one that DOCKER_HOST names, else Podman's service as ``scripts/ci-containers`` has set it up.
"""

import io
import os
import shutil
import subprocess
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from containers.places import TINY, TINY_IMAGE, Place, open_place

BASE_IMAGE = "localhost/segue-test-base:latest"
HOW = "run scripts/ci-containers (root, Debian or Ubuntu), or name an engine in DOCKER_HOST that has this image"


@pytest.fixture(scope="session")
def engine_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a container engine that has the base image; the test is skipped, or failed in CI, without one."""
    if os.environ.get("DOCKER_HOST"):
        yield os.environ["DOCKER_HOST"]
        return
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = cache / "segue" / "ci-containers"
    if shutil.which("podman") is None or not (folder / "containers.conf").exists():
        _no_engine("there is no container engine")
    address = f"unix://{tmp_path_factory.mktemp('engine')}/docker.sock"
    env = os.environ | {
        "CONTAINERS_CONF": str(folder / "containers.conf"),
        "CONTAINERS_STORAGE_CONF": str(folder / "storage.conf"),
    }
    with (folder / "service.log").open("wb") as log:
        service = subprocess.Popen(
            ["podman", "system", "service", "--time=0", address], env=env, cwd=folder, stdout=log, stderr=log
        )
    try:
        _await_socket(Path(address.removeprefix("unix://")), service, folder / "service.log")
        yield address
    finally:
        service.terminate()
        service.wait()


@pytest.fixture(scope="session")
def engine(engine_url: str) -> Iterator[Any]:
    """The Docker library's client of the engine; it has the base image."""
    import docker

    client = docker.DockerClient(base_url=engine_url, timeout=600)
    try:
        client.images.get(BASE_IMAGE)
    except docker.errors.ImageNotFound:
        client.close()
        _no_engine(f"the engine has no image {BASE_IMAGE}")
    yield client
    client.close()


@pytest.fixture(scope="session")
def tiny_image(engine: Any) -> str:
    """The base image with ``tiny_server.py`` as its entry point."""
    recipe = f'FROM {BASE_IMAGE}\nCOPY tiny_server.py /\nENTRYPOINT ["python3", "/tiny_server.py"]\n'
    context = tar_of({"Dockerfile": recipe.encode(), "tiny_server.py": TINY.read_bytes()})
    engine.images.build(fileobj=context, custom_context=True, tag=TINY_IMAGE, rm=True)
    return TINY_IMAGE


@pytest.fixture(params=["process", "docker"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    where = str(tmp_path / "processes")
    if request.param == "docker":
        request.getfixturevalue("tiny_image")
        where = request.getfixturevalue("engine_url")
    place = open_place(request.param, where)
    try:
        yield place
    finally:  # what a test that fails leaves behind must not fail the next one
        for record in place.runtime.records():
            place.runtime.remove(record.id)
        place.runtime.close()


def tar_of(files: dict[str, bytes]) -> io.BytesIO:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    buffer.seek(0)
    return buffer


def _no_engine(why: str) -> None:
    text = f"{why}: {HOW}"
    if os.environ.get("SEGUE_TEST_CONTAINERS") == "required":
        pytest.fail(text)
    pytest.skip(text)


def _await_socket(socket: Path, service: "subprocess.Popen[bytes]", log: Path) -> None:
    until = time.monotonic() + 30
    while not socket.exists():
        if service.poll() is not None or time.monotonic() > until:
            pytest.fail(f"podman's service does not start: {log.read_text()}")
        time.sleep(0.05)
