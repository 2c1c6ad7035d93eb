"""A tiny Llama with random weights and a byte-level tokenizer, written once a session."""

from pathlib import Path

import pytest
from tiny_model import write_tiny_llama


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_llama(tmp_path_factory.mktemp("tiny_llama"))
