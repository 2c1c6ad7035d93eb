import asyncio

import pytest

from segue.conformance.http_messages import BadRequest, RequestMessage, chunk, read_request, response_head


async def _read(content: bytes) -> RequestMessage | None:
    reader = asyncio.StreamReader()
    reader.feed_data(content)
    reader.feed_eof()
    return await read_request(reader)


async def test_request_with_a_body() -> None:
    message = await _read(b'POST /a?b=c HTTP/1.1\r\nHost: h\r\nX-Some:  v \r\nContent-Length: 9\r\n\r\n{"a": 1} more')
    assert message is not None
    assert (message.method, message.target, message.content) == ("POST", "/a?b=c", b'{"a": 1} ')
    assert message.headers["x-some"] == "v"
    assert message.json == {"a": 1}


@pytest.mark.parametrize("content", [b"", b"GET / HTTP", b"POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\nab"])
async def test_a_client_that_closes(content: bytes) -> None:
    assert await _read(content) is None


@pytest.mark.parametrize(
    "content",
    [
        b"nonsense\r\n\r\n",
        b"GET http://elsewhere/ HTTP/1.1\r\n\r\n",
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        b"GET / HTTP/1.1\r\nX: " + b"x" * 70_000 + b"\r\n\r\n",
    ],
    ids=["no line", "absolute", "chunked", "length", "too long"],
)
async def test_what_is_no_request(content: bytes) -> None:
    with pytest.raises(BadRequest):
        await _read(content)


async def test_no_json_is_none() -> None:
    message = await _read(b"POST / HTTP/1.1\r\nContent-Length: 1\r\n\r\n{")
    assert message is not None
    assert message.json is None


def test_heads() -> None:
    assert response_head(200, [("a", "b")], 3) == (
        b"HTTP/1.1 200 OK\r\na: b\r\ncontent-length: 3\r\nconnection: close\r\n\r\n"
    )
    assert b"HTTP/1.1 499 \r\n" in response_head(499, [], None)
    assert b"transfer-encoding: chunked\r\n" in response_head(200, [], None)
    assert chunk(b"x" * 26) == b"1a\r\n" + b"x" * 26 + b"\r\n"
