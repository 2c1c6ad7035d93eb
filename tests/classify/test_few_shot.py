import random

import pytest
from classify.labeller import Labeller
from client.tgi_server import TgiServer

from segue.classify import TGIFewShotClassifier

X = ["taxes rise", "atoms split", "a vote", "cells divide", "cake"]
Y = ["politics", "science", "politics", "science", "other"]


def test_prompt_shows_the_examples_of_each_label(server: TgiServer) -> None:
    TGIFewShotClassifier(server.url, "{classes}\n{examples}\n> {X}").fit(X, Y).predict(["new"])
    assert server.posts[0].body["inputs"] == (
        "'other', 'politics', 'science'\n"
        "Examples of 'other':\n\"cake\"\n\n"
        'Examples of \'politics\':\n"a vote"\n"taxes rise"\n\n'
        'Examples of \'science\':\n"atoms split"\n"cells divide"\n> new'
    )


# 4.14 no. 19
def test_order_of_the_examples_does_not_reach_the_prompt(server: TgiServer) -> None:
    for seed in range(5):
        shuffled = random.Random(seed).sample(list(zip(X, Y, strict=True)), len(X))
        TGIFewShotClassifier(server.url).fit(*zip(*shuffled, strict=True)).predict(["new"])
    assert len({seen.body["inputs"] for seen in server.posts}) == 1


# 4.14 no. 20
def test_partial_fits_equal_one_fit(server: TgiServer) -> None:
    TGIFewShotClassifier(server.url).fit(X, Y).predict(["new"])
    parts = TGIFewShotClassifier(server.url)
    for start in range(0, len(X), 2):
        parts.partial_fit(X[start : start + 2], Y[start : start + 2])
    parts.predict(["new"])
    whole, pieced = server.posts
    assert whole.body == pieced.body
    assert parts.examples_ == {"other": ["cake"], "politics": ["taxes rise", "a vote"], "science": X[1:4:2]}


def test_partial_fit_before_fit_and_with_labels_that_have_no_example(server: TgiServer, labeller: Labeller) -> None:
    classifier = TGIFewShotClassifier(server.url).partial_fit(["a vote"], ["politics"], classes=["politics", "art"])
    assert classifier.predict(["x"]).tolist() == ["politics"]
    assert "Examples of 'art'" not in server.posts[0].body["inputs"]
    assert "'art', 'politics'" in server.posts[0].body["inputs"]


def test_fit_forgets() -> None:
    classifier = TGIFewShotClassifier().fit(X, Y).fit(["one"], [1])
    assert classifier.examples_ == {1: ["one"]}
    assert classifier.classes_.tolist() == [1]


def test_braces_in_examples_stay(server: TgiServer) -> None:
    TGIFewShotClassifier(server.url).fit(["{X} {classes}", "b"], ["politics", "o"]).predict(["new"])
    assert '"{X} {classes}"' in server.posts[0].body["inputs"]


def test_as_many_texts_as_labels() -> None:
    with pytest.raises(ValueError, match="2 texts and 1 labels"):
        TGIFewShotClassifier().fit(["a", "b"], ["x"])
    with pytest.raises(ValueError, match="text 1 is no text but int"):
        TGIFewShotClassifier().fit(["a", 3], ["x", "y"])
