import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from classify.labeller import Labeller
from client.tgi_server import TgiServer

from segue.classify import TGIZeroShotClassifier

LABELS = ["politics", "science", "other"]
SRC = Path(__file__).parents[2] / "src"


# 4.14 no. 19
def test_order_of_the_labels_does_not_reach_the_prompt(server: TgiServer) -> None:
    for seed in range(5):
        shuffled = random.Random(seed).sample(LABELS * 2, 6)
        TGIZeroShotClassifier(server.url).fit(None, shuffled).predict(["x"])
    assert len({seen.body["inputs"] for seen in server.posts}) == 1
    assert "'other', 'politics', 'science'" in server.posts[0].body["inputs"]


# 4.14 no. 19
def test_hash_seed_does_not_reach_the_prompt(server: TgiServer) -> None:
    labels = [*LABELS, *"abcdefghijklmnop"]
    code = (
        "import sys; from segue.classify import TGIZeroShotClassifier as C; "
        f"C(sys.argv[1]).fit(None, list(set({labels!r}))).predict(['x'])"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "1", "PYTHONPATH": str(SRC)}
    subprocess.run([sys.executable, "-c", code, server.url], env=environment, check=True)
    TGIZeroShotClassifier(server.url).fit(None, labels).predict(["x"])
    elsewhere, here = server.posts
    assert elsewhere.body == here.body


# 4.14 no. 20
def test_partial_fit_learns(server: TgiServer, labeller: Labeller) -> None:
    labeller.table = lambda prompt: {"sports" if "'sports'" in prompt else "other": 1.0}
    classifier = TGIZeroShotClassifier(server.url).partial_fit(None, ["politics", "other"])
    assert classifier.predict(["a match"]).tolist() == ["other"]
    classifier.partial_fit(None, ["sports", "other"])
    assert classifier.classes_.tolist() == ["other", "politics", "sports"]
    assert (classifier.n_classes_, classifier.n_classes) == (3, 3)
    assert classifier.predict(["a match"]).tolist() == ["sports"]


def test_partial_fit_takes_classes_and_fit_forgets() -> None:
    classifier = TGIZeroShotClassifier().partial_fit(None, ["b"], classes=["a", "b", "c"])
    assert classifier.classes_.tolist() == ["a", "b", "c"]
    assert classifier.fit(None, ["z"]).classes_.tolist() == ["z"]


def test_labels_that_are_no_texts_keep_their_type(server: TgiServer, labeller: Labeller) -> None:
    labeller.table = lambda prompt: {"1" if "first" in prompt else "20": 1.0}
    predicted = TGIZeroShotClassifier(server.url).fit(None, [20, 1, 1]).predict(["first", "second"])
    assert predicted.tolist() == [1, 20]
    assert predicted.dtype == np.array([1]).dtype


def test_own_prompt_with_braces(server: TgiServer) -> None:
    prompt = 'Answer {"label": one of {classes}} for <{X}>'
    TGIZeroShotClassifier(server.url, prompt).fit(None, ["a", "politics"]).predict(["{classes}"])
    assert server.posts[0].body["inputs"] == """Answer {"label": one of 'a', 'politics'} for <{classes}>"""


def test_the_old_signature_is_accepted(server: TgiServer) -> None:
    classifier = TGIZeroShotClassifier(f"{server.url}/generate", "{classes}: {X}", 256, True, "cpu")
    assert classifier.fit(None, LABELS).predict(["x"]).tolist() == ["politics"]


@pytest.mark.parametrize(
    ("labels", "reason"),
    [
        ([], "no labels"),
        ([1, "1"], None),
        (["a", " "], "must not be empty"),
        ([[["a"]]], None),
        ([1.5, 2.25], "continuous"),
    ],
)
def test_labels_that_cannot_be_asked_for(labels: object, reason: str | None) -> None:
    with pytest.raises((ValueError, TypeError), match=reason):
        TGIZeroShotClassifier().fit(None, np.array(labels, dtype=object) if labels == [1, "1"] else labels)


@pytest.mark.parametrize(
    "params",
    [
        {"constrain": "always"},
        {"on_error": "ignore"},
        {"too_long": "cut"},
        {"max_new_tokens": 0},
        {"max_concurrency": 0},
        {"match_threshold": 90},
        {"prompt": "no text here"},
        {"api_key": "k", "endpoint": ["http://127.0.0.1:1"]},
    ],
)
def test_wrong_parameters_are_told_when_fitting(params: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(params))):
        TGIZeroShotClassifier(**params).fit(None, LABELS)
