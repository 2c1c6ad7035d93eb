"""A real server on a loopback port, with an engine without a model that says the prompt again."""

from collections.abc import Iterator

import pytest
from contract.live import LiveServer, fake_server

API_KEY = "contract-key"
MAX_CONCURRENT_REQUESTS = 8


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    folder = tmp_path_factory.mktemp("tokenizer")
    with fake_server(folder, api_key=(API_KEY,), max_concurrent_requests=MAX_CONCURRENT_REQUESTS) as running:
        yield running
