from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segue.client._sse import EventDecoder


def decode(*chunks: bytes) -> list[bytes]:
    decoder = EventDecoder()
    payloads = [payload for chunk in chunks for payload in decoder.feed(chunk)]
    return payloads + decoder.close()


STREAM = (
    'data: {"text":"三🙂"}\n\n'
    ":\n\n"
    ": keep-alive\n"
    'data:{"text":"no space"}\r\n\r\n'
    "event: message\nid: 7\nretry: 10\ndata: first\ndata: second\n\n"
    "data:  two spaces\r\r"
    "data\n\n"
    "data: [DONE]\n\n"
).encode()
PAYLOADS = [
    '{"text":"三🙂"}'.encode(),
    b'{"text":"no space"}',
    b"first\nsecond",
    b" two spaces",
    b"",
    b"[DONE]",
]


def test_whole() -> None:
    assert decode(STREAM) == PAYLOADS


def test_14_split_at_every_byte_boundary() -> None:
    for cut in range(len(STREAM) + 1):
        assert decode(STREAM[:cut], STREAM[cut:]) == PAYLOADS, cut


def test_14_byte_by_byte() -> None:
    assert decode(*(STREAM[i : i + 1] for i in range(len(STREAM)))) == PAYLOADS


@given(st.lists(st.integers(0, len(STREAM)), max_size=12))
def test_14_any_split(cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), len(STREAM)]
    assert decode(*(STREAM[a:b] for a, b in pairwise(edges))) == PAYLOADS


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_line_ends_are_the_same(end: str) -> None:
    lines = ["data: a", "", ": comment", "data: b", "data: c", ""]
    stream = "".join(line + end for line in lines).encode()
    for cut in range(len(stream) + 1):
        assert decode(stream[:cut], stream[cut:]) == [b"a", b"b\nc"]


def test_an_event_without_its_last_line_end_still_counts() -> None:
    assert decode(b"data: a\n\ndata: b") == [b"a", b"b"]
    assert decode(b"data: a\r") == [b"a"]


def test_comments_alone_are_no_event() -> None:
    assert decode(b":\n\n:\n\n\n\n") == []
