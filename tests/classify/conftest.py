"""A server whose model is a table, for each test."""

from collections.abc import Iterator

import pytest

pytest.importorskip("sklearn", reason="needs the extra [classify]")
from classify.labeller import Labeller, says
from client.tgi_server import TgiServer


@pytest.fixture
def labeller() -> Labeller:
    return Labeller(says("politics"))


@pytest.fixture
def server(labeller: Labeller) -> Iterator[TgiServer]:
    with TgiServer(labeller) as running:
        yield running
