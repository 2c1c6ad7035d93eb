import pickle

import httpx
import pytest

import segue.client.errors as errors
from segue.client._failures import event_error, redact, secrets_of, status_error, unreadable
from segue.client.errors import APIStatusError, IncompleteStreamError, QueueFullError, QueueTimeoutError, TGIError
from segue.client.types import ResponseMetadata
from segue.core.errors import SegueError

RESPONSE = ResponseMetadata(200, httpx.Headers({"a": "b"}), "id-1", 0.5, 2, "e")


def answered(status: int, body: str, secrets: tuple[str, ...] = ()) -> APIStatusError:
    response = ResponseMetadata(status, httpx.Headers(), "id-1", 0.5, 2, "e")
    return status_error(body.encode(), httpx.Headers(), response, secrets)


@pytest.mark.parametrize(
    ("status", "body", "kind", "message"),
    [
        (
            422,
            '{"error":"Input validation error: x","error_type":"validation"}',
            "ValidationError",
            "Input validation error: x",
        ),
        (424, '{"error":"oom","error_type":"generation"}', "GenerationError", "oom"),
        (429, '{"error":"Model is overloaded","error_type":"overloaded"}', "OverloadedError", "Model is overloaded"),
        (429, '{"error":"slow down"}', "RateLimitError", "slow down"),
        (
            500,
            '{"error":"Incomplete generation","error_type":"incomplete_generation"}',
            "IncompleteGenerationError",
            "Incomplete generation",
        ),
        (503, '{"error":"unhealthy","error_type":"healthcheck"}', "ShardNotReadyError", "unhealthy"),
        (422, '{"error":"no tool","error_type":"tool_error"}', "ValidationError", "no tool"),
        (401, "", "AuthenticationError", "HTTP 401 Unauthorized"),
        (403, "", "PermissionDeniedError", "HTTP 403 Forbidden"),
        (404, "", "NotFoundError", "HTTP 404 Not Found"),
        (
            400,
            "Failed to parse the request body as JSON",
            "BadRequestError",
            "Failed to parse the request body as JSON",
        ),
        (415, "Expected request with JSON", "APIStatusError", "Expected request with JSON"),
        (502, "<html>Bad gateway</html>", "ServerError", "<html>Bad gateway</html>"),
        (599, "", "ServerError", "HTTP 599"),
        (307, "", "APIStatusError", "HTTP 307 Temporary Redirect"),
        (422, '{"detail":[{"msg":"field required"}]}', "ValidationError", '{"msg": "field required"}'),
        (
            404,
            '{"error":{"message":"no model","type":"invalid_request_error","code":"model_not_found"}}',
            "NotFoundError",
            "no model",
        ),
        (400, '{"error":["a","b"]}', "BadRequestError", "a; b"),
        (500, '{"message":"odd"}', "ServerError", "odd"),
    ],
)
def test_errors_of_statuses(status: int, body: str, kind: str, message: str) -> None:
    error = answered(status, body)
    assert type(error).__name__ == kind
    assert (error.message, error.status_code) == (message, status)


def test_a_body_that_is_not_json_keeps_its_beginning() -> None:
    assert answered(502, "x" * 2000).body == "x" * 500


@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [
        ({"error": "m", "error_type": "overloaded"}, "OverloadedError", 429),
        ({"error": "m", "error_type": "incomplete_generation_stream"}, "IncompleteGenerationError", 500),
        ({"error": {"message": "m", "http_status_code": 422}}, "ValidationError", 422),
        ({"error": "m"}, "ServerError", 500),
    ],
)
def test_errors_of_events(body: dict[str, object], kind: str, status: int) -> None:
    error = event_error(body, RESPONSE, ())
    assert type(error).__name__ == kind
    assert (error.message, error.status_code, error.response.status) == ("m", status, 200)


def test_18_a_key_that_the_server_repeats_is_removed() -> None:
    secrets = secrets_of({"authorization": "Bearer hf_sesame", "x-api-key": "other-sesame", "accept": "*/*"})
    assert secrets == ("hf_sesame", "other-sesame")
    text = '{"error":"bad token hf_sesame","seen":["other-sesame"]}'
    for error in (
        answered(401, text, secrets),
        event_error({"error": "bad hf_sesame"}, RESPONSE, secrets),
        unreadable(b"oh hf_sesame", ValueError("hf_sesame"), RESPONSE, secrets),
    ):
        assert "sesame" not in f"{error} {error!r} {error.__dict__}"
    assert redact("hf_sesame!", secrets) == "[redacted]!"


def test_every_error_is_ours() -> None:
    kinds = [getattr(errors, name) for name in errors.__all__]
    assert all(issubclass(kind, TGIError) and issubclass(kind, SegueError) for kind in kinds)
    assert issubclass(QueueFullError, ValueError)
    assert issubclass(QueueTimeoutError, TimeoutError)


@pytest.mark.parametrize(
    "error",
    [
        answered(429, '{"error":"m","error_type":"overloaded"}'),
        IncompleteStreamError("cut", partial_text="so far"),
        QueueFullError("full"),
    ],
)
def test_errors_travel_between_processes(error: TGIError) -> None:
    """The default way of pickling calls the class with the message alone, and fails."""
    error.located(request_id="id-1", endpoint="e", attempts=3)
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert str(copy) == str(error)
    assert copy.__dict__ == error.__dict__
