"""The estimators as scikit-learn sees them."""

import pickle

import numpy as np
import pytest
from classify.labeller import Labeller
from client.tgi_server import TgiServer
from sklearn.base import clone, is_classifier
from sklearn.exceptions import NotFittedError
from sklearn.metrics import accuracy_score
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils import estimator_checks, get_tags

from segue.classify import ClassificationWarning, TGIFewShotClassifier, TGIZeroShotClassifier
from segue.classify.base import TGIClassifier, texts_of
from segue.client import AsyncClient, Client, EndpointPool

CLASSIFIERS = [TGIZeroShotClassifier, TGIFewShotClassifier]
TEXTS = ["a vote", "atoms", "taxes", "cells", "a law", "stars"]
LABELS = ["politics", "science"] * 3

# check_estimator skips all but cloning for estimators of texts. These need no table of numbers.
TEXT_CHECKS = [
    estimator_checks.check_estimator_cloneable,
    estimator_checks.check_estimator_tags_renamed,
    estimator_checks.check_valid_tag_types,
    estimator_checks.check_estimator_repr,
    estimator_checks.check_no_attributes_set_in_init,
    estimator_checks.check_do_not_raise_errors_in_init_or_set_params,
    estimator_checks.check_mixin_order,
    estimator_checks.check_parameters_default_constructible,
    estimator_checks.check_get_params_invariance,
    estimator_checks.check_set_params,
]
# Those that fit on numbers: a zero-shot classifier does not look at X when it is fitted.
FIT_CHECKS = [
    estimator_checks.check_estimators_overwrite_params,
    estimator_checks.check_estimators_fit_returns_self,
    estimator_checks.check_estimators_unfitted,
]


@pytest.mark.parametrize("kind", CLASSIFIERS)
@pytest.mark.filterwarnings("ignore:Can't test estimator")
def test_check_estimator(kind: type[TGIClassifier]) -> None:
    results = estimator_checks.check_estimator(kind(), on_skip=None)
    assert {result["status"] for result in results} <= {"passed", "skipped"}
    assert any(result["status"] == "passed" for result in results)


@pytest.mark.parametrize("kind", CLASSIFIERS)
@pytest.mark.parametrize("check", TEXT_CHECKS, ids=lambda check: check.__name__)
def test_checks_that_need_no_numbers(kind: type[TGIClassifier], check: object) -> None:
    check(kind.__name__, kind())


@pytest.mark.parametrize("check", FIT_CHECKS, ids=lambda check: check.__name__)
def test_checks_of_fitting(check: object) -> None:
    check("TGIZeroShotClassifier", TGIZeroShotClassifier())


@pytest.mark.parametrize("kind", CLASSIFIERS)
def test_tags(kind: type[TGIClassifier]) -> None:
    tags = get_tags(kind())
    assert (tags.input_tags.string, tags.input_tags.one_d_array, tags.input_tags.two_d_array) == (True, True, False)
    assert is_classifier(kind())


@pytest.mark.parametrize("kind", CLASSIFIERS)
@pytest.mark.parametrize("method", ["predict", "predict_proba", "predict_raw"])
def test_unfitted(kind: type[TGIClassifier], method: str) -> None:
    with pytest.raises(NotFittedError):
        getattr(kind(), method)(["x"])


@pytest.mark.parametrize("kind", CLASSIFIERS)
def test_a_clone_is_unfitted_and_has_the_parameters(kind: type[TGIClassifier]) -> None:
    parameters = {"top_p": 0.5}
    original = kind("http://h:1", max_new_tokens=3, parameters=parameters, random_state=4).fit(TEXTS, LABELS)
    copied = clone(original)
    assert copied.get_params() == original.get_params()
    assert copied.parameters is not parameters
    assert not hasattr(copied, "classes_")


@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_clients_and_pools_are_shared_with_clones(server: TgiServer, kind: type[Client | AsyncClient]) -> None:
    pool = EndpointPool([server.url])
    for params in ({"client": kind(pool=pool)}, {"endpoint": pool}):
        classifier = clone(clone(TGIZeroShotClassifier(**params))).fit(None, LABELS)
        assert classifier.predict(["x"]).tolist() == ["politics"]
    assert pool.stats().successful_requests == 2


def test_options_of_a_given_client_are_used(server: TgiServer) -> None:
    client = Client(server.url, headers={"x-team": "red"}).with_options(session="s")
    TGIZeroShotClassifier(client=client).fit(None, LABELS).predict(["x"])
    assert server.posts[0].headers["x-team"] == "red"


def test_fitted_ones_can_be_pickled(server: TgiServer) -> None:
    classifier = pickle.loads(pickle.dumps(TGIFewShotClassifier(server.url).fit(TEXTS, LABELS)))
    assert classifier.predict(["x"]).tolist() == ["politics"]


def test_pipeline(server: TgiServer, labeller: Labeller) -> None:
    labeller.table = lambda prompt: {"politics" if 'Text: "A VOTE"' in prompt else "science": 1.0}
    upper = FunctionTransformer(lambda texts: [text.upper() for text in texts])
    pipeline = Pipeline([("upper", upper), ("label", TGIZeroShotClassifier(server.url))]).fit(TEXTS, LABELS)
    assert pipeline.predict(["a vote", "atoms"]).tolist() == ["politics", "science"]
    assert pipeline.predict_proba(["a vote"]).tolist() == [[1.0, 0.0]]


def _knows(prompt: str) -> dict[str, float]:
    text = prompt.rsplit('"', 2)[1]
    right = "politics" if text in ("a vote", "taxes", "a law") else "science"
    return {right if prompt.startswith("Good") else "politics": 1.0}


def test_grid_search_finds_the_better_prompt(server: TgiServer, labeller: Labeller) -> None:
    labeller.table = _knows
    prompts = ['Bad {classes}: "{X}"', 'Good {classes}: "{X}"']
    search = GridSearchCV(TGIZeroShotClassifier(server.url), {"prompt": prompts}, cv=3, error_score="raise")
    search.fit(np.array(TEXTS), LABELS)
    assert search.best_params_ == {"prompt": prompts[1]}
    assert search.best_score_ == 1.0


@pytest.mark.parametrize("metric", [None, "accuracy", "roc_auc", "neg_log_loss"])
def test_cross_validation_of_few_shots(server: TgiServer, labeller: Labeller, metric: str | None) -> None:
    labeller.table = _knows
    classifier = TGIFewShotClassifier(server.url, 'Good {examples} {classes} "{X}"')
    scores = cross_val_score(classifier, TEXTS, LABELS, cv=3, scoring=metric, error_score="raise")
    assert scores.tolist() == ([1.0] * 3 if metric != "neg_log_loss" else pytest.approx([0.0] * 3))


def test_texts_as_labels_work_with_metrics(server: TgiServer) -> None:
    predicted = TGIZeroShotClassifier(server.url).fit(None, LABELS).predict(TEXTS)
    assert accuracy_score(LABELS, predicted) == 0.5


def test_a_text_without_a_label_is_wrong(server: TgiServer, labeller: Labeller) -> None:
    labeller.table = lambda prompt: {"" if "taxes" in prompt else "politics": 1.0}
    classifier = TGIZeroShotClassifier(server.url, constrain=False).fit(None, LABELS)
    with pytest.warns(ClassificationWarning):
        assert classifier.score(TEXTS, LABELS) == pytest.approx(2 / 6)
    with pytest.warns(ClassificationWarning):
        assert classifier.score(TEXTS, LABELS, sample_weight=[1, 0, 1, 0, 0, 0]) == pytest.approx(0.5)


class _Column:
    """As a pandas Series or DataFrame."""

    def __init__(self, values: object) -> None:
        self._values = np.asarray(values, dtype=object)

    def to_numpy(self) -> np.ndarray:
        return self._values


@pytest.mark.parametrize(
    "X",
    [
        ["a", "b"],
        ("a", "b"),
        np.array(["a", "b"]),
        np.array([["a"], ["b"]], dtype=object),
        _Column(["a", "b"]),
        _Column([["a"], ["b"]]),
    ],
)
def test_forms_of_texts(X: object) -> None:
    assert texts_of(X) == ["a", "b"]


@pytest.mark.parametrize("X", ["ab", [1.5], [None], [["a", "b"]], np.zeros((2, 3)), [b"a"]])
def test_what_is_no_texts(X: object) -> None:
    with pytest.raises(ValueError, match=r"text"):
        texts_of(X)
