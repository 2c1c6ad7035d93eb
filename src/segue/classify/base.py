"""What both classifiers have in common."""

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any, ClassVar, Literal, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin  # type: ignore[import-untyped]
from sklearn.utils import check_random_state, column_or_1d  # type: ignore[import-untyped]
from sklearn.utils.multiclass import check_classification_targets  # type: ignore[import-untyped]
from sklearn.utils.validation import check_is_fitted  # type: ignore[import-untyped]

from segue.classify.asking import Answer, Asker, Question, ask_all
from segue.classify.labels import label_regex, nearest_label
from segue.classify.outcome import TextFailure, warn_of
from segue.classify.prompts import SYSTEM, fill, labels_text
from segue.classify.running import run_to_end
from segue.classify.scoring import label_probabilities
from segue.client import AsyncClient, Client, Endpoint, EndpointPool, TGIError

__all__ = ["DEFAULT_ENDPOINT", "TGIClassifier", "texts_of"]

DEFAULT_ENDPOINT = "http://127.0.0.1:8080/generate"
_MAX_SEED = 2**31 - 1

Labels = NDArray[Any]
Outcome = Answer | TextFailure


class TGIClassifier(ClassifierMixin, BaseEstimator, ABC):  # type: ignore[misc]
    """Labels texts by asking a language model behind TGI's API.

    Parameters
    ----------
    endpoint : URL of a server, an ``Endpoint``, an ``EndpointPool``, or a list of URLs and Endpoints.
    prompt : template with ``{X}`` (the text), ``{classes}`` and, for few shots, ``{examples}``; other braces stay.
        None: the default. In a chat it is the user's message.
    max_new_tokens : most tokens of an answer.
    fuzzy_match : True: the label that is nearest to the answer (edit distance). False: the answer as it is.
    device : has no effect; old code passes it. The model runs where the server is.
    match_threshold : similarity from 0 to 1 below which an answer is no label.
    constrain : let the server admit labels only, by a grammar: "auto" where it has grammars, True: or fail.
    chat : ask by ``/v1/chat/completions``, with the model's own chat template.
    api_key : of ``endpoint``.
    client : a ``Client`` or ``AsyncClient`` whose endpoints, options, model and retries are used instead of
        ``endpoint``. Connections are this estimator's own.
    max_concurrency : most requests at a time.
    on_error : "none": None for a text that fails, and one ClassificationWarning. "raise": its error.
    too_long : "none": a text that is too long fails. "truncate": its end is cut off until it fits.
    parameters : more parameters of generation, by the names that the client has for them (``stop``, ``top_p`` …).
    random_state : seed, for parameters that sample.
    progress : show a progress bar.

    Attributes
    ----------
    classes_ : the labels, sorted. The same labels give the same prompt in every process, whatever their order was.
    n_classes_ : how many there are.
    """

    _prompt: ClassVar[str]
    _task: ClassVar[str]

    def __init__(
        self,
        endpoint: "str | Endpoint | EndpointPool | Sequence[str | Endpoint]" = DEFAULT_ENDPOINT,
        prompt: str | None = None,
        max_new_tokens: int = 256,
        fuzzy_match: bool = True,
        device: str = "cpu",
        *,
        match_threshold: float = 0.0,
        constrain: Literal["auto"] | bool = "auto",
        chat: bool = False,
        api_key: str | None = None,
        client: Client | AsyncClient | None = None,
        max_concurrency: int = 8,
        on_error: Literal["none", "raise"] = "none",
        too_long: Literal["none", "truncate"] = "none",
        parameters: Mapping[str, Any] | None = None,
        random_state: int | np.random.RandomState | None = None,
        progress: bool = False,
    ) -> None:
        self.endpoint = endpoint
        self.prompt = prompt
        self.max_new_tokens = max_new_tokens
        self.fuzzy_match = fuzzy_match
        self.device = device
        self.match_threshold = match_threshold
        self.constrain = constrain
        self.chat = chat
        self.api_key = api_key
        self.client = client
        self.max_concurrency = max_concurrency
        self.on_error = on_error
        self.too_long = too_long
        self.parameters = parameters
        self.random_state = random_state
        self.progress = progress

    @abstractmethod
    def fit(self, X: Any, y: ArrayLike) -> Self: ...

    @abstractmethod
    def partial_fit(self, X: Any, y: ArrayLike, classes: ArrayLike | None = None) -> Self: ...

    @property
    def n_classes(self) -> int:
        """``n_classes_`` by its old name."""
        return int(self.n_classes_)

    def predict(self, X: Any) -> Labels:
        """A label for each text: an array of objects, or of the labels' own type if they are no texts.

        Under ``fuzzy_match=False`` an answer that is no label stands there as it came.
        """
        check_is_fitted(self)
        outcomes = self._answers(X, wants_steps=False)
        labels = self._label_texts()
        chosen = [outcome if isinstance(outcome, TextFailure) else self._label(outcome, labels, index)
                  for index, outcome in enumerate(outcomes)]  # fmt: skip
        failures = [each for each in chosen if isinstance(each, TextFailure)]
        warn_of(failures, len(chosen))
        values = np.empty(len(chosen), dtype=object)
        for index, each in enumerate(chosen):
            values[index] = None if isinstance(each, TextFailure) else each
        is_typed = self.classes_.dtype != object and all(not isinstance(each, (str, TextFailure)) for each in chosen)
        return values.astype(self.classes_.dtype) if is_typed else values

    def predict_proba(self, X: Any) -> NDArray[np.float64]:
        """[num_texts, num_classes]: how likely each label is as the model's answer, given that it is one of them.

        From the server's list of the likeliest tokens, see ``scoring``. NaN for a text that failed.
        """
        check_is_fitted(self)
        outcomes = self._answers(X, wants_steps=True)
        labels = self._label_texts()
        rows = np.full((len(outcomes), len(labels)), np.nan)
        for index, outcome in enumerate(outcomes):
            if isinstance(outcome, Answer):
                rows[index] = label_probabilities(outcome.steps, labels)
        warn_of([outcome for outcome in outcomes if isinstance(outcome, TextFailure)], len(outcomes))
        return rows

    def predict_raw(self, X: Any) -> Labels:
        """What the model said about each text, unmatched."""
        check_is_fitted(self)
        outcomes = self._answers(X, wants_steps=False)
        warn_of([outcome for outcome in outcomes if isinstance(outcome, TextFailure)], len(outcomes))
        values = np.empty(len(outcomes), dtype=object)
        for index, outcome in enumerate(outcomes):
            values[index] = outcome.text if isinstance(outcome, Answer) else None
        return values

    def score(self, X: Any, y: ArrayLike, sample_weight: ArrayLike | None = None) -> float:
        """Share of right labels; a text without a label is wrong."""
        expected = column_or_1d(y)
        predicted = self.predict(X)
        is_right = np.array([float(a == b) for a, b in zip(predicted, expected, strict=True)])
        weights = None if sample_weight is None else np.asarray(sample_weight, dtype=float)
        return float(np.average(is_right, weights=weights))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.input_tags.one_d_array = True
        tags.input_tags.string = True
        return tags

    def __sklearn_clone__(self) -> Self:
        """Clients and pools are shared: they hold connections and queues, which cannot be copied."""
        params = self.get_params(deep=False)
        shared = {name: params.pop(name) for name, value in [*params.items()] if isinstance(value, _SHARED)}
        return type(self)(**copy.deepcopy(params), **shared)

    def _set_classes(self, labels: ArrayLike) -> None:
        """Raises ValueError."""
        values = column_or_1d(np.asarray(labels), warn=True)
        if len(values) == 0:
            raise ValueError("there are no labels")
        check_classification_targets(values)
        classes = np.unique(values)
        self.classes_ = classes.astype(object) if classes.dtype.kind in "US" else classes
        self.n_classes_ = len(self.classes_)
        texts = self._label_texts()
        if len(set(texts)) < len(texts) or not all(text.strip() for text in texts):
            raise ValueError(f"labels must differ, and must not be empty, as texts. Given: {texts}")
        self._check_params()
        # Ids of endpoints that have no grammars.
        self._refused_grammar: set[str] = set()

    def _label_texts(self) -> list[str]:
        return [str(label) for label in self.classes_]

    def _check_params(self) -> None:
        allowed = {"constrain": ("auto", True, False), "on_error": ("none", "raise"), "too_long": ("none", "truncate")}
        for name, values in allowed.items():
            if getattr(self, name) not in values:
                given = getattr(self, name)
                raise ValueError(f"{name} must be one of {', '.join(map(repr, values))}. Given: {given!r}")
        for name in ("max_new_tokens", "max_concurrency"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be >= 1. Given: {getattr(self, name)}")
        if not 0 <= self.match_threshold <= 1:
            raise ValueError(f"match_threshold must be between 0 and 1. Given: {self.match_threshold}")
        if self.prompt is not None and "{X}" not in self.prompt:
            raise ValueError("prompt has no {X}, so the text would not be in it")
        if self.client is not None and self.endpoint != DEFAULT_ENDPOINT:
            raise ValueError("endpoint and client exclude each other")
        if self.api_key is not None and not (isinstance(self.endpoint, str) and self.client is None):
            raise ValueError("api_key belongs to an endpoint that is a URL; an Endpoint has its own")

    def _prompt_values(self) -> dict[str, str]:
        """What the template's placeholders stand for, except the text."""
        return {"classes": labels_text(self._label_texts())}

    def _question(self, wants_steps: bool) -> Question:
        default = self._task if self.chat else self._prompt
        template = default if self.prompt is None else self.prompt
        values = self._prompt_values()
        limit = self.max_new_tokens
        regex = None
        if self.constrain:
            regex = label_regex(self._label_texts())
            # A token is a byte at least: the longest label always fits, and the end of the answer.
            limit = max(limit, 1 + max(len(label.encode()) for label in self._label_texts()))
        given = dict(self.parameters or {})
        parameters: dict[str, Any] = {"max_tokens": limit, "temperature": 0} if self.chat else {"max_new_tokens": limit}
        if self.random_state is not None:
            state = self.random_state
            parameters["seed"] = state if isinstance(state, int) else int(check_random_state(state).randint(_MAX_SEED))
        return Question(
            render=lambda text: fill(template, {**values, "X": text}),
            system=SYSTEM if self.chat and self.prompt is None else None,
            is_chat=self.chat,
            parameters={**parameters, **given},
            regex=regex,
            is_regex_optional=self.constrain == "auto",
            truncates=self.too_long == "truncate",
            wants_steps=wants_steps,
        )

    def _answers(self, X: Any, *, wants_steps: bool) -> list[Outcome]:
        self._check_params()
        texts = texts_of(X)
        question = self._question(wants_steps)

        async def ask() -> list[Answer | TGIError]:
            async with self._new_client() as client:
                asker = Asker(client, question, self._refused_grammar)
                return await ask_all(
                    asker, texts, concurrency=self.max_concurrency, raises=self.on_error == "raise", on_done=bar.update
                )

        with _progress(len(texts), shown=self.progress) as bar:
            outcomes = run_to_end(ask)
        return [
            outcome if isinstance(outcome, Answer) else TextFailure(index, str(outcome), outcome)
            for index, outcome in enumerate(outcomes)
        ]

    def _new_client(self) -> AsyncClient:
        given = self.client
        if given is not None:
            if not given._owns_http:
                raise ValueError("the client has an http_client of its own, which is bound to where it was made")
            client = AsyncClient(pool=given.pool, model=given.model, retry=given.retry)
            client.options = given.options
            return client
        if isinstance(self.endpoint, EndpointPool):
            return AsyncClient(pool=self.endpoint)
        if isinstance(self.endpoint, (str, Endpoint)):
            return AsyncClient(self.endpoint, api_key=self.api_key)
        return AsyncClient(endpoints=self.endpoint)

    def _label(self, answer: Answer, labels: Sequence[str], index: int) -> Any:
        """The class that ``answer`` names, the answer itself under ``fuzzy_match=False``, or a failure."""
        text = answer.text.strip()
        if text in labels:
            return self.classes_[labels.index(text)]
        if not text:
            return TextFailure(index, "the answer is empty")
        if not self.fuzzy_match:
            return text
        match = nearest_label(text, labels)
        if match is None or match.similarity < self.match_threshold:
            return TextFailure(index, f"the answer is no label: {text[:100]!r}")
        return self.classes_[match.index]


_SHARED = (Client, AsyncClient, EndpointPool)


def texts_of(X: Any) -> list[str]:
    """A list of texts from a sequence of them, or from a table of one column. Raises ValueError."""
    if isinstance(X, str):
        raise ValueError("a sequence of texts is needed, not one text")
    values = np.asarray(X.to_numpy() if hasattr(X, "to_numpy") else X, dtype=object)
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.ndim != 1:
        raise ValueError(f"a sequence of texts, or a table of one column, is needed. Given: shape {values.shape}")
    for index, value in enumerate(values):
        if not isinstance(value, str):
            raise ValueError(f"text {index} is no text but {type(value).__name__}: {value!r:.100}")
    return [str(value) for value in values]


class _NoBar:
    def update(self) -> None:
        pass


def _progress(num_texts: int, *, shown: bool) -> Any:
    if not shown:
        return nullcontext(_NoBar())
    from tqdm.auto import tqdm

    return tqdm(total=num_texts, unit="text")
