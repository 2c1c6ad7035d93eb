"""One tiny model and one server for all tests that leave it as it was."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from e2e.server_process import ServerProcess, running
from tiny_model import write_tiny_llama


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_llama(tmp_path_factory.mktemp("tiny_llama"))


@pytest.fixture(scope="session")
def server(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with running(tmp_path_factory.mktemp("server"), str(model)) as server:
        yield server
