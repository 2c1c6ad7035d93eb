from collections.abc import Callable
from pathlib import Path

import pytest
from serving import Serving, byte_tokenizer

from segue.text.tokenizer import Tokenizer


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    folder: Path = tmp_path_factory.mktemp("tokenizer")
    return byte_tokenizer(folder)


@pytest.fixture
def serve(tokenizer: Tokenizer) -> Callable[..., Serving]:
    """Makes an application: ``serve(script=says("hello"), max_best_of=1)``."""
    return lambda **given: Serving(tokenizer, **given)
