from collections.abc import Iterator

import pytest
from client.tgi_server import TgiServer


@pytest.fixture
def server() -> Iterator[TgiServer]:
    with TgiServer() as running:
        yield running
