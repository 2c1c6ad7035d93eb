"""The sample model behind a real server: the guide's example, and texts that are too long."""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
from segue.classify import ClassificationWarning, TGIFewShotClassifier, TGIZeroShotClassifier
from segue.containers import Container, ContainerSpec
from segue.containers.process_runtime import ProcessRuntime

EXAMPLE = "It is the Electoral College's responsibility to elect the president."
LABELS = ["politics", "science", "other"]
SRC = Path(__file__).parents[2] / "src"


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    spec = ContainerSpec(
        image="segue", model_id="sample-chat", name="classify", options={"num_threads": 1}, env={"PYTHONPATH": str(SRC)}
    )
    runtime = ProcessRuntime(tmp_path_factory.mktemp("processes"))
    with Container(spec, runtime=runtime, environ=dict(os.environ)) as server:
        yield f"{server.url}/generate"


@pytest.mark.parametrize("chat", [False, True])
def test_the_guides_example(url: str, chat: bool) -> None:
    classifier = TGIZeroShotClassifier(url, chat=chat).fit(None, LABELS)
    assert classifier.predict([EXAMPLE]).tolist() == ["politics"]
    [row] = classifier.predict_proba([EXAMPLE])
    assert classifier.classes_[np.argmax(row)] == "politics"


def test_few_shots(url: str) -> None:
    texts = ["The president signed the law.", "The cell has a nucleus.", "I like pancakes."]
    classifier = TGIFewShotClassifier(url).fit(texts, LABELS)
    assert classifier.predict([EXAMPLE]).tolist() == ["politics"]


def test_too_long_a_text(url: str) -> None:
    classifier = TGIZeroShotClassifier(url).fit(None, LABELS)
    long = EXAMPLE + " The senate met." * 2000
    with pytest.warns(ClassificationWarning, match=r"text 1: .*tokens"):
        assert classifier.predict([EXAMPLE, long]).tolist() == ["politics", None]
    [label] = classifier.set_params(too_long="truncate").predict([long])
    assert label in LABELS
