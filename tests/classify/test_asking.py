"""Through the classifiers and a socket: grammars, chats, limits, what goes wrong."""

import threading
import warnings
from typing import Any

import numpy as np
import pytest
from classify.labeller import TOKEN_SIZE, Labeller, pieces, says
from client.tgi_server import Reply, Seen, TgiServer, error_reply, json_reply

from segue.classify import ClassificationWarning, TGIZeroShotClassifier
from segue.client import AuthenticationError, Endpoint, EndpointPool, RetryPolicy, ValidationError

LABELS = ["politics", "science", "other"]


def fitted(server: TgiServer, **params: Any) -> TGIZeroShotClassifier:
    return TGIZeroShotClassifier(params.pop("endpoint", server.url), **params).fit(None, LABELS)


def test_grammar_forces_a_label(server: TgiServer, labeller: Labeller) -> None:
    labeller.table = lambda _: {"I think it is science": 0.9, "science": 0.02, "politics": 0.08}
    assert fitted(server).predict(["x"]).tolist() == ["politics"]
    assert server.posts[0].parameters["grammar"] == {"type": "regex", "value": "(other|politics|science)"}


def test_a_constrained_answer_is_never_cut_short(server: TgiServer, labeller: Labeller) -> None:
    labeller.table = says("a very long label")
    classifier = TGIZeroShotClassifier(server.url, max_new_tokens=1, fuzzy_match=False)
    classifier.fit(None, ["a very long label", "b"])
    assert classifier.predict(["x"]).tolist() == ["a very long label"]


def test_a_server_without_grammars_is_asked_for_one_once(server: TgiServer, labeller: Labeller) -> None:
    labeller.has_grammar = False
    labeller.table = says("It is science.")
    classifier = fitted(server, max_concurrency=1)
    assert classifier.predict(["a", "b", "c"]).tolist() == ["science"] * 3
    classifier.predict(["d"])
    assert ["grammar" in seen.parameters for seen in server.posts] == [True, False, False, False, False]


def test_each_endpoint_is_known_for_itself() -> None:
    table = says("science")
    with TgiServer(Labeller(table)) as capable, TgiServer(Labeller(table, has_grammar=False)) as incapable:
        endpoints = [Endpoint(incapable.url), Endpoint(capable.url)]
        pool = EndpointPool(endpoints, "round_robin")
        classifier = fitted(capable, endpoint=pool, max_concurrency=1)
        assert classifier.predict(["x"] * 4).tolist() == ["science"] * 4
        assert all("grammar" in seen.parameters for seen in capable.posts)
        # The text that was refused stays there: another endpoint has its own line.
        assert ["grammar" in seen.parameters for seen in incapable.posts][:2] == [True, False]


def test_constrain_true_insists(server: TgiServer, labeller: Labeller) -> None:
    labeller.has_grammar = False
    with pytest.raises(ValidationError, match="grammar is not supported"):
        fitted(server, constrain=True).predict(["x"])


def test_constrain_false_never_asks_for_one(server: TgiServer) -> None:
    fitted(server, constrain=False).predict(["x"])
    assert server.posts[0].parameters == {"max_new_tokens": 256, "details": False}


def test_parameters_and_seed_are_sent(server: TgiServer) -> None:
    parameters = {"temperature": 0.7, "top_p": 0.9, "stop": "\n"}
    fitted(server, constrain=False, max_new_tokens=9, parameters=parameters, random_state=3).predict(["x"])
    sent = {"max_new_tokens": 9, "temperature": 0.7, "top_p": 0.9, "stop": ["\n"], "seed": 3, "details": False}
    assert server.posts[0].parameters == sent


def test_a_misspelt_parameter_is_an_error(server: TgiServer) -> None:
    with pytest.raises(TypeError, match="temperature"):
        fitted(server, parameters={"temprature": 1}).predict(["x"])


def test_key_goes_to_the_server(server: TgiServer) -> None:
    fitted(server, api_key="secret-key").predict(["x"])
    assert server.posts[0].key == "secret-key"


@pytest.mark.parametrize("suffix", ["", "/", "/generate"])
def test_endpoint_with_or_without_its_route(server: TgiServer, suffix: str) -> None:
    fitted(server, endpoint=server.url + suffix).predict(["x"])
    assert server.posts[0].path == "/generate"


def test_chat_asks_greedily_with_the_task_as_message(server: TgiServer, labeller: Labeller) -> None:
    labeller.table = lambda prompt: {"science": 1.0} if prompt.endswith('Text: "atoms"') else {"other": 1.0}
    assert fitted(server, chat=True).predict(["atoms", "cake"]).tolist() == ["science", "other"]
    [body] = [seen.body for seen in server.posts if "atoms" in seen.body["messages"][1]["content"]]
    assert [message["role"] for message in body["messages"]] == ["system", "user"]
    assert "###" not in body["messages"][1]["content"]
    assert body["temperature"] == 0
    assert body["response_format"] == {"type": "regex", "value": "(other|politics|science)"}


def test_chat_without_grammars(server: TgiServer, labeller: Labeller) -> None:
    labeller.has_grammar = False
    assert fitted(server, chat=True, prompt="Which of {classes}? {X}").predict(["x"]).tolist() == ["politics"]
    assert [message["content"] for message in server.posts[1].body["messages"]] == [
        "Which of 'other', 'politics', 'science'? x"
    ]


@pytest.mark.parametrize("chat", [False, True])
@pytest.mark.parametrize("has_grammar", [False, True])
def test_probabilities_are_those_of_the_model_among_the_labels(
    server: TgiServer, labeller: Labeller, chat: bool, has_grammar: bool
) -> None:
    labeller.has_grammar = has_grammar
    labeller.table = lambda _: {"politics": 0.4, "police": 0.1, "science": 0.2, "sciences?": 0.1, "tech": 0.2}
    rows = (
        TGIZeroShotClassifier(server.url, chat=chat).fit(None, ["politics", "science", "police"]).predict_proba(["x"])
    )
    # Without a grammar what begins as a label, "sci", counts for it.
    expected = np.array([0.1, 0.4, 0.2] if has_grammar else [0.1, 0.4, 0.3])
    np.testing.assert_allclose(rows, [expected / expected.sum()])


def test_six_labels_on_a_server_that_lists_five_tokens(server: TgiServer, labeller: Labeller) -> None:
    weights = {label: 2.0**-power for power, label in enumerate(["aaa", "bbb", "ccc", "ddd", "eee", "fff"])}
    labeller.table = lambda _: weights
    classifier = TGIZeroShotClassifier(server.url).fit(None, list(weights))
    [row] = classifier.predict_proba(["x"])
    exact = np.array(list(weights.values())) / sum(weights.values())
    assert row.argsort().tolist() == [5, 4, 3, 2, 1, 0]
    np.testing.assert_allclose(row, exact, atol=0.01)


def test_predict_raw_is_what_the_model_said(server: TgiServer, labeller: Labeller) -> None:
    labeller.table = says(" well, science ")
    assert fitted(server, constrain=False).predict_raw(["x"]).tolist() == [" well, science "]


def test_without_fuzzy_match_the_answer_stands_as_it_came(server: TgiServer, labeller: Labeller) -> None:
    labeller.table = says(" Science\n")
    assert fitted(server, constrain=False, fuzzy_match=False).predict(["x"]).tolist() == ["Science"]


def test_threshold_makes_a_far_answer_no_label(server: TgiServer, labeller: Labeller) -> None:
    labeller.table = lambda prompt: {"scyence" if "near" in prompt else "silence please": 1.0}
    with pytest.warns(ClassificationWarning, match=r"1 of 2 texts .*text 1: the answer is no label: 'silence please'"):
        labels = fitted(server, constrain=False, match_threshold=0.8).predict(["near", "far"])
    assert labels.tolist() == ["science", None]


def test_an_empty_answer_is_no_label(server: TgiServer, labeller: Labeller) -> None:
    labeller.table = says("  ")
    with pytest.warns(ClassificationWarning, match="the answer is empty"):
        assert fitted(server, constrain=False).predict(["x"]).tolist() == [None]


# 4.14 no. 21
def test_one_failing_text_of_a_hundred_is_one_none_and_one_warning(server: TgiServer, labeller: Labeller) -> None:
    def handler(seen: Seen) -> Reply:
        return (
            error_reply(424, "generation", "numbers ran out") if "text 37." in seen.body["inputs"] else labeller(seen)
        )

    server.handler = handler
    with pytest.warns(ClassificationWarning) as caught:
        labels = fitted(server).predict([f"text {number}." for number in range(100)])
    assert [index for index, label in enumerate(labels) if label is None] == [37]
    assert labels.dtype == object
    [warning] = caught
    [failure] = warning.message.failures
    assert (failure.index, failure.reason) == (37, "numbers ran out")
    assert warning.filename == __file__


@pytest.mark.parametrize(
    "reply",
    [
        Reply(502, (b"<html>bad gateway</html>",), {"content-type": "text/html"}),
        Reply(422, (b"Failed to deserialize",), {"content-type": "text/plain"}),
        json_reply({"detail": "no"}, 400),
        json_reply({"error": "no", "error_type": "unknown"}),
        Reply(200, (b"not json",)),
        Reply(200, (b'{"generated',), cut=True),
    ],
    ids=["html", "text", "detail", "error with 200", "no json", "cut"],
)
def test_whatever_a_server_says_costs_one_text_only(server: TgiServer, labeller: Labeller, reply: Reply) -> None:
    server.handler = lambda seen: reply if "bad" in seen.body["inputs"] else labeller(seen)
    endpoint = Endpoint(server.url, retry=RetryPolicy(initial_delay=0))
    with pytest.warns(ClassificationWarning, match="1 of 3"):
        labels = fitted(server, endpoint=endpoint).predict(["good", "bad", "good"])
    assert labels.tolist() == ["politics", None, "politics"]


def test_on_error_raise(server: TgiServer) -> None:
    server.handler = lambda _: error_reply(401, "unauthorized", "who are you?")
    with pytest.raises(AuthenticationError):
        fitted(server, on_error="raise").predict(["x"] * 20)
    assert len(server.posts) < 20


# An overloaded server made the original call the text label None.
def test_a_busy_server_is_asked_again(server: TgiServer) -> None:
    server.replies.extend([error_reply(429, "overloaded", retry_after="0.05")] * 2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert fitted(server).predict(["a", "b"]).tolist() == ["politics"] * 2


def test_a_failed_text_has_no_probabilities(server: TgiServer, labeller: Labeller) -> None:
    server.handler = lambda seen: error_reply(424, "generation") if "bad" in seen.body["inputs"] else labeller(seen)
    with pytest.warns(ClassificationWarning):
        rows = fitted(server).predict_proba(["good", "bad"])
    assert np.isnan(rows).tolist() == [[False] * 3, [True] * 3]


def test_a_server_that_lists_no_tokens_gives_no_probabilities(server: TgiServer) -> None:
    server.handler = lambda _: json_reply({"generated_text": "politics"})
    with pytest.warns(ClassificationWarning, match="lists no tokens"):
        assert np.isnan(fitted(server).predict_proba(["x"])).all()


def test_concurrency_is_used_and_bounded(server: TgiServer) -> None:
    with server.held() as release:
        thread = threading.Thread(target=lambda: fitted(server, max_concurrency=3).predict(["x"] * 9))
        thread.start()
        server.wait_for(lambda: len(server.posts) == 3)
        release.set()
        thread.join()
    assert server.max_at_once == 3
    assert len(server.posts) == 9


def test_too_long_is_none_and_a_warning(server: TgiServer, labeller: Labeller) -> None:
    labeller.max_input_tokens = 200
    with pytest.warns(ClassificationWarning, match=r"text 1: .*must have less than 200 tokens"):
        labels = fitted(server).predict(["short", "long " * 200])
    assert labels.tolist() == ["politics", None]


@pytest.mark.parametrize("chat", [False, True])
def test_truncation_cuts_the_text_not_the_task(server: TgiServer, labeller: Labeller, chat: bool) -> None:
    labeller.max_input_tokens = 200
    text = "".join(chr(97 + index % 26) for index in range(2000))
    labels = fitted(server, too_long="truncate", chat=chat).predict([text, "short"])
    assert labels.tolist() == ["politics", "politics"]
    bodies = [seen.body for seen in server.posts if seen.path in ("/generate", "/v1/chat/completions")]
    prompts = [body["messages"][1]["content"] if chat else body["inputs"] for body in bodies]
    cut = next(prompt for prompt in prompts if "abc" in prompt and text not in prompt)
    kept = cut.split('Text: "')[1].partition('"')[0]
    assert text.startswith(kept)
    whole = "".join(f"<{m['role']}>{m['content']}" for m in bodies[-1]["messages"]) if chat else cut
    assert 197 <= len(pieces(whole)) <= 200, "nothing was cut that would have fitted"
    assert cut.endswith('"' if chat else "### Assistant:\n")


def test_a_task_that_is_too_long_alone_fails(server: TgiServer, labeller: Labeller) -> None:
    labeller.max_input_tokens = 5
    with pytest.warns(ClassificationWarning, match="less than 5 tokens"):
        assert fitted(server, too_long="truncate").predict(["x" * TOKEN_SIZE]).tolist() == [None]


def test_truncation_does_not_hide_other_mistakes(server: TgiServer) -> None:
    server.handler = _refusing("`temperature` must be strictly positive", server.handler)
    with pytest.warns(ClassificationWarning, match="must be strictly positive"):
        assert fitted(server, too_long="truncate").predict(["x"]).tolist() == [None]


def _refusing(reason: str, otherwise: Any) -> Any:
    return lambda seen: error_reply(422, "validation", reason) if seen.path == "/generate" else otherwise(seen)


# 4.14 no. 22
async def test_inside_a_running_loop(server: TgiServer) -> None:
    assert fitted(server).predict(["x"]).tolist() == ["politics"]
    assert fitted(server).predict_proba(["x"]).shape == (1, 3)


def test_progress_bar(server: TgiServer, capsys: pytest.CaptureFixture[str]) -> None:
    fitted(server).predict(["x"] * 4)
    assert capsys.readouterr().err == ""
    fitted(server, progress=True).predict(["x"] * 4)
    shown = capsys.readouterr()
    assert "4/4" in shown.err
    assert shown.out == ""


def test_no_texts(server: TgiServer) -> None:
    classifier = fitted(server)
    assert classifier.predict([]).shape == (0,)
    assert classifier.predict_proba([]).shape == (0, 3)
    assert server.posts == []
