"""What native code writes of the engine's frames is what Python would write, and the rest is left alone."""

import json
import math
import random
import struct
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from serving import BOS, INFO, byte_tokenizer, id_of
from tokenizers import AddedToken

from segue.core.output import EngineStep, FinishReason, RequestOutput, StepStats, TokenOutput
from segue.engine.channel import FrameReader, Frames, framed
from segue.engine.ipc import Heartbeat, decode, encode, tag_of
from segue.server.completion_choice import CompletionEvents, CompletionShape
from segue.server.floats import round_to_f32, shortest_f32
from segue.server.generation import Token
from segue.server.openai_words import OpenAIWords
from segue.server.stream import ChatEvents, Dialect, GenerateEvents
from segue.server.token_lane import LaneTokens, TokenLane, Way, new_lane
from segue.text.tokenizer import Tokenizer

_lane = pytest.importorskip("segue.server.native._lane")

TEXTS = [
    'say "no"',
    "a\\u0041\\",
    "\n\r\t\b\f",
    "\0\x01\x1f\x7f\x80",
    "— ñ ж",
    "😀🏳️‍🌈",
    "\u2028\u2029",
    "</script>",
]
FIRST_ADDED = INFO.vocab_size
SPECIAL = FIRST_ADDED + len(TEXTS)
INSIDE_CHARACTER = id_of("é".encode()[0])
STRANGER = 99
TEMPLATE = ("id", b" ")


@pytest.fixture(scope="module")
def rich_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """Bytes, and whole texts that JSON writes in its own way."""
    added = [AddedToken(text, normalized=False) for text in TEXTS]
    folder: Path = tmp_path_factory.mktemp("rich")
    return byte_tokenizer(folder, [*added, AddedToken('<|"special"|>', special=True)])


class Client:
    """Where an outlet leads."""

    def __init__(self) -> None:
        self._chunks: list[bytes] = []
        self.outlet = _lane.Outlet(-1, self._chunks.append, lambda: 0)

    @property
    def writes(self) -> list[bytes]:
        """The bodies."""
        bodies = []
        for chunk in self._chunks:
            size, body = chunk.split(b"\r\n", 1)
            assert len(body) == int(size, 16) + 2
            assert body.endswith(b"\r\n")
            bodies.append(body[:-2])
        return bodies

    @property
    def text(self) -> bytes:
        return b"".join(self.writes)


class Lane:
    """A lane with the reader of one connection."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.lane: Any = new_lane()
        self.reader: Frames = self.lane.reader()
        self._streams = TokenLane(self.lane, tokenizer)

    def __len__(self) -> int:
        return len(self.lane)

    def enter(self, request_id: int, event: Sequence[bytes | str] = TEMPLATE, number: int = 1) -> tuple[Way, Client]:
        client = Client()
        way = self._streams.way(request_id, event, client.outlet)
        assert way is not None
        way.enter(number)
        return way, client

    def hear(self, *steps: EngineStep) -> list[EngineStep]:
        """Of these, in one piece, what is left."""
        frames = self.reader.feed(b"".join(framed(encode(step)) for step in steps))
        return [step_of(frame) for frame in frames]


@pytest.fixture
def lane(rich_tokenizer: Tokenizer) -> Lane:
    return Lane(rich_tokenizer)


def step_of(frame: bytes) -> EngineStep:
    step = decode(frame)
    assert isinstance(step, EngineStep)
    return step


def step(*outputs: RequestOutput, number: int = 0) -> EngineStep:
    return EngineStep(outputs=outputs, stats=StepStats(num_running=number, step_s=0.25, concat_reason="chunking"))


def plain(request_id: int, *ids: int) -> RequestOutput:
    return RequestOutput(request_id=request_id, tokens=tuple(TokenOutput(each, -0.5) for each in ids))


# What the lane writes


def some_logprobs(draw: random.Random, count: int) -> list[float]:
    special = [-math.inf, -0.0, 0.0, -1e-7, -1e-45, -1.1754943e-38, -3.4e38, -16777216.0, -0.1, -1 / 3, -100.0, -1e-5]
    drawn = [struct.unpack("f", draw.randbytes(4))[0] for _ in range(count // 2)]
    drawn = [each for each in drawn if not math.isnan(each)]
    return [*special, *drawn, *(draw.uniform(-20, 0) for _ in range(count - len(drawn)))]


def some_ids(draw: random.Random, count: int) -> list[int]:
    every = [*range(BOS, 2), *map(id_of, range(128)), *range(FIRST_ADDED, SPECIAL + 1)]
    return [*every, *draw.choices(every, k=max(0, count - len(every)))]


def words(is_openai: bool) -> OpenAIWords:
    return OpenAIWords("openai" if is_openai else "tgi")


def chat() -> ChatEvents:
    return ChatEvents(
        words(True),
        chunk_id='a"b',
        model="m/é",
        system_fingerprint="s",
        wants_logprobs=False,
        usage=None,
    )


def completion(is_openai: bool) -> CompletionEvents:
    shape = CompletionShape(echo="", hides_generation=False, num_top_tokens=None)
    return CompletionEvents(words(is_openai), index=3, chunk_id='a"b', model="m/é", system_fingerprint="s", shape=shape)


DIALECTS: dict[str, Callable[[], Dialect]] = {
    "generate": lambda: GenerateEvents(wants_details=True, prefix="p"),
    "chat": chat,
    "completion, tgi": lambda: completion(False),
    "completion, openai": lambda: completion(True),
}


def parsed(text: bytes) -> list[Any]:
    """Each event. ``repr`` of floats tells 0.0 from -0.0; of a subnormal, which Python may write in more digits than
    it needs, the f32 is compared."""
    *events, rest = text.split(b"\n\n")
    assert rest == b""
    assert all(event.startswith(b"data: ") for event in events)
    return [json.loads(event[6:], parse_float=number) for event in events]


def number(digits: str) -> str:
    value = float(digits)
    return repr(round_to_f32(value) if 0 < abs(value) < 1.1754944e-38 else value)


@pytest.mark.parametrize("name", DIALECTS)
@pytest.mark.parametrize("most_tokens", [1, 4])
def test_it_writes_what_the_dialect_renders(lane: Lane, rich_tokenizer: Tokenizer, name: str, most_tokens: int) -> None:
    dialect = DIALECTS[name]()
    assert dialect.token_event is not None
    draw = random.Random(most_tokens)
    logprobs = some_logprobs(draw, 3000)
    tokens = [TokenOutput(*pair) for pair in zip(some_ids(draw, len(logprobs)), logprobs, strict=True)]
    way, client = lane.enter(7, dialect.token_event, number=2)
    expected, num_steps, sent = [], dict[int, int](), [Token(5, "first", -1.0, False)]
    while tokens:
        some = [tokens.pop(0) for _ in range(min(len(tokens), draw.randint(1, most_tokens)))]
        takes_steps = draw.random() < 0.5
        lane.hear(step(RequestOutput(request_id=7, tokens=tuple(some), num_steps=len(some) if takes_steps else 1)))
        sent += [python_token(rich_tokenizer, each) for each in some]
        generation: Any = SimpleNamespace(num_tokens=len(sent), tokens=sent, top_tokens=[], finish_reason=None)
        expected.append(parsed(dialect.render(generation, sent[-len(some) :])))
        num_tokens, steps = (1, len(some)) if takes_steps else (len(some), 1)
        num_steps[num_tokens] = num_steps.get(num_tokens, 0) + steps
    assert [parsed(each) for each in client.writes] == expected
    written = way.leave()
    assert written is not None
    assert written.ids == [token.id for token in sent[1:]]
    assert [shortest_f32(each) for each in written.logprobs] == [token.logprob for token in sent[1:]]
    assert written.num_steps == num_steps


def python_token(tokenizer: Tokenizer, given: TokenOutput) -> Token:
    assert tokenizer.pieces is not None
    text = tokenizer.pieces[given.token_id]
    assert isinstance(text, str)
    return Token(given.token_id, text, shortest_f32(given.logprob), given.token_id in tokenizer.special_token_ids)


def test_the_texts_above_are_single_tokens(rich_tokenizer: Tokenizer) -> None:
    assert rich_tokenizer.pieces is not None
    assert [rich_tokenizer.pieces[FIRST_ADDED + index] for index in range(len(TEXTS))] == TEXTS
    assert SPECIAL in rich_tokenizer.special_token_ids
    assert isinstance(rich_tokenizer.pieces[INSIDE_CHARACTER], bytes)


def test_a_template_has_known_fields_only() -> None:
    with pytest.raises(ValueError, match="no such field"):
        _lane.Template((b"a", "logprobs"))


def test_steps_that_come_together_leave_together(lane: Lane) -> None:
    _, client = lane.enter(7)
    assert lane.hear(step(plain(7, 65)), step(plain(7, 66), plain(7, 67))) == []
    assert client.writes == [b"65 66 67 "]


def test_streams_do_not_mix(lane: Lane) -> None:
    ways = {request_id: lane.enter(request_id) for request_id in (7, 1 << 61)}
    left = lane.hear(step(plain(7, 10), plain(STRANGER, 20), plain(1 << 61, 30, 31)), step(plain(7, 11)))
    assert [each.outputs for each in left] == [(plain(STRANGER, 20),), ()]
    assert [client.text for _, client in ways.values()] == [b"10 11 ", b"30 31 "]
    assert ways[7][0].leave() == LaneTokens([10, 11], [-0.5, -0.5], {1: 2})
    assert ways[7][0].leave() is None
    assert lane.hear(step(plain(7, 12)))[-1].outputs == (plain(7, 12),)


# What it leaves

ODD = {
    "the end": RequestOutput(request_id=7, tokens=(TokenOutput(9, -0.5),), finish_reason=FinishReason.LENGTH),
    "an end without tokens": RequestOutput(request_id=7, finish_reason=FinishReason.EOS_TOKEN),
    "an error": RequestOutput(request_id=7, error="é"),
    "an error with tokens": RequestOutput(request_id=7, tokens=(TokenOutput(9, -0.5),), error="no"),
    "other tokens": RequestOutput(request_id=7, tokens=(TokenOutput(9, -0.5, ((8, -1.0), (7, -math.inf))),)),
    "the prompt's logprobs": RequestOutput(
        request_id=7, tokens=(TokenOutput(9, -0.5),), prompt_logprobs=(None, *[-1.5] * 20)
    ),
    "the first output": RequestOutput(request_id=7, tokens=(TokenOutput(9, -0.5),), scheduled_time=0.5),
    "no tokens": RequestOutput(request_id=7),
    "a part of a character": plain(7, INSIDE_CHARACTER),
    "such a part behind a whole one": plain(7, 65, INSIDE_CHARACTER),
    "an id beyond all vocabularies": plain(7, 1 << 40),
}


@pytest.mark.parametrize("name", ODD)
def test_what_is_more_than_tokens_leaves_the_lane(lane: Lane, name: str) -> None:
    """With all that follows, in its order, until the stream enters again."""
    odd = ODD[name]
    way, client = lane.enter(7)
    _, other = lane.enter(8)
    after = [plain(7, 66), plain(7, 67)]
    left = lane.hear(
        step(plain(7, 65), plain(8, 80), number=1),
        step(plain(STRANGER, 1), odd, plain(8, 81), number=2),
        step(after[0], plain(8, 82), number=3),
        step(after[1], number=4),
    )
    assert [each.outputs for each in left] == [(), (plain(STRANGER, 1), odd), (after[0],), (after[1],)]
    assert [each.stats.num_running for each in left] == [1, 2, 3, 4]
    assert (client.text, other.text, len(lane)) == (b"65 ", b"80 81 82 ", 1)
    assert way.leave() == LaneTokens([65], [-0.5], {1: 1})
    way.enter(5)
    lane.hear(step(plain(7, 68)))
    assert client.text == b"65 68 "


def an_end(*token_ids: int, num_steps: int) -> RequestOutput:
    tokens = tuple(TokenOutput(token_id, -0.5) for token_id in token_ids)
    return RequestOutput(request_id=7, tokens=tokens, finish_reason=FinishReason.LENGTH, num_steps=num_steps)


def test_of_an_end_the_last_token_is_left(lane: Lane) -> None:
    """The others are sent with it, not before."""
    way, client = lane.enter(7)
    _, other = lane.enter(8)
    left = lane.hear(step(plain(7, 65)), step(plain(8, 80), an_end(66, 67, 68, num_steps=3), plain(STRANGER, 1)))
    assert [each.outputs for each in left] == [(), (an_end(68, num_steps=1), plain(STRANGER, 1))]
    assert (client.writes, other.writes, len(lane)) == ([], [b"80 "], 1)
    client.outlet.write(b"the end")
    assert client.writes == [b"65 66 67 the end"]
    assert way.leave() == LaneTokens([65, 66, 67], [-0.5] * 3, {1: 3})


@pytest.mark.parametrize(
    "end", [an_end(66, 67, 68, num_steps=2), an_end(66, num_steps=1), an_end(66, INSIDE_CHARACTER, 68, num_steps=3)]
)
def test_an_end_that_is_left_whole(lane: Lane, end: RequestOutput) -> None:
    way, client = lane.enter(7)
    assert [each.outputs for each in lane.hear(step(plain(7, 65)), step(end))] == [(), (end,)]
    assert (client.writes, len(lane), way.leave()) == ([b"65 "], 0, LaneTokens([65], [-0.5], {1: 1}))


def test_a_step_of_another_form_is_pythons_for_all_its_streams(lane: Lane) -> None:
    """A logprob is never an integer. What comes after it would be written before it if the streams stayed."""
    steps = [
        step(plain(7, 65)),
        step(RequestOutput(request_id=7, tokens=(TokenOutput(9, 0),)), plain(8, 81)),
        step(plain(7, 66), plain(8, 82)),
    ]
    clients = [lane.enter(request_id)[1] for request_id in (7, 8)]
    assert lane.hear(*steps) == [step(), *steps[1:]]
    assert ([client.text for client in clients], len(lane)) == ([b"65 ", b""], 0)


def test_the_index_goes_on_where_the_stream_enters(lane: Lane) -> None:
    way, client = lane.enter(7, ("index", b" "), number=2)
    lane.hear(step(plain(7, 65, 65)), step(plain(7, 65)))
    way.leave()
    way.enter(9)
    lane.hear(step(plain(7, 65)))
    assert client.text == b"2 3 4 9 "


@pytest.mark.parametrize("end", ["is_full", "close"])
def test_a_client_that_takes_no_more_ends_it(lane: Lane, end: str) -> None:
    way, client = lane.enter(7)
    lane.hear(step(plain(7, 65)))
    if end == "is_full":
        client.outlet.is_full = True
    else:
        client.outlet.close()
    [left] = lane.hear(step(plain(7, 66)))[-1:]
    assert (left.outputs, client.text, len(lane)) == ((plain(7, 66),), b"65 ", 0)
    assert way.leave() == LaneTokens([65], [-0.5], {1: 1})


def test_streams_that_are_dropped(lane: Lane) -> None:
    for request_id in (7, 8, 9):
        lane.enter(request_id)
    lane.lane.drop(8)
    lane.lane.drop(STRANGER)
    assert len(lane) == 2
    lane.lane.clear()
    [left] = lane.hear(step(plain(7, 65), plain(8, 65)))
    assert (len(lane), left.outputs) == (0, (plain(7, 65), plain(8, 65)))


@pytest.fixture
def unraisable(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[BaseException | None]]:
    errors: list[BaseException | None] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda given: errors.append(given.exc_value))
    yield errors
    errors.clear()


def test_a_text_that_cannot_be_had_is_left_to_python(lane: Lane, unraisable: list[BaseException | None]) -> None:
    def describe(token_id: int) -> tuple[bytes, bool]:
        raise KeyError(token_id)

    client = Client()
    lane.lane.open(7, _lane.Pen(_lane.Pieces(describe), _lane.Template(TEMPLATE), client.outlet, 1))
    _, other = lane.enter(8)
    [left] = lane.hear(step(plain(7, 65), plain(8, 66)))
    assert left.outputs == (plain(7, 65),)
    assert (client.text, other.text, len(lane)) == (b"", b"66 ", 1)
    assert [type(error) for error in unraisable] == [KeyError]


def test_a_text_whose_asking_ends_the_stream(lane: Lane) -> None:
    """Python may do anything where it is called: here, drop the stream."""

    def describe(token_id: int) -> tuple[bytes, bool]:
        lane.lane.clear()
        return b'"a"', False

    client = Client()
    pen = _lane.Pen(_lane.Pieces(describe), _lane.Template(TEMPLATE), client.outlet, 1)
    lane.lane.open(7, pen)
    del pen
    assert lane.hear(step(plain(7, 65))) == []
    assert (client.text, len(lane)) == (b"65 ", 0)


def test_a_connection_that_raises_hurts_nobody_else(lane: Lane, unraisable: list[BaseException | None]) -> None:
    def write(data: bytes) -> None:
        raise RuntimeError("closed")

    pieces, template = _lane.Pieces(lambda token_id: (b'"a"', False)), _lane.Template(TEMPLATE)
    lane.lane.open(7, _lane.Pen(pieces, template, _lane.Outlet(-1, write, lambda: 0), 1))
    _, other = lane.enter(8)
    lane.hear(step(plain(7, 65), plain(8, 66)))
    assert other.text == b"66 "
    assert [type(error) for error in unraisable] == [RuntimeError]


# Statistics


def test_statistics_wait_for_what_somebody_waits_for(lane: Lane) -> None:
    lane.enter(7)
    for index in range(5):
        assert lane.hear(step(plain(7, 65), number=index)) == []
    left = lane.hear(step(plain(STRANGER, 65), number=5))
    assert [each.stats for each in left] == [step(number=index).stats for index in range(6)]
    assert lane.reader.release() == []


@pytest.mark.parametrize("message", [Heartbeat(), INFO])
def test_any_other_message_brings_them(lane: Lane, message: Heartbeat) -> None:
    lane.enter(7)
    assert lane.hear(step(plain(7, 65))) == []
    frames = lane.reader.feed(framed(encode(message)))
    assert [decode(frame) for frame in frames] == [step(), message]


def test_they_are_released_when_asked_for(lane: Lane) -> None:
    lane.enter(7)
    assert lane.hear(step(plain(7, 65), number=1), step(plain(7, 65), number=2)) == []
    assert [step_of(each).stats.num_running for each in lane.reader.release()] == [1, 2]
    assert lane.reader.release() == []


def test_no_more_than_64_wait(lane: Lane) -> None:
    lane.enter(7)
    for index in range(63):
        assert lane.hear(step(plain(7, 65), number=index)) == []
    left = lane.hear(step(plain(7, 65), number=63))
    assert [each.stats.num_running for each in left] == list(range(64))
    assert lane.hear(step(plain(7, 65))) == []


# Frames


def some_frames(draw: random.Random, count: int, *, with_rubbish: bool = False) -> list[bytes]:
    """Of all kinds; rubbish is what looks like a step and is none."""
    kinds: list[Callable[[], bytes]] = [
        lambda: bytes(encode(Heartbeat())),
        lambda: bytes(encode(replace(INFO, num_blocks=draw.randint(1, 1 << 40)))),
        lambda: bytes(encode(step(number=draw.randint(0, 1 << 40)))),
        lambda: bytes(encode(step(*(draw.choice([*ODD.values(), plain(7, 65)]) for _ in range(draw.randint(0, 40)))))),
        lambda: b"",
        lambda: bytes((tag_of(Heartbeat), *draw.randbytes(draw.randint(1, 3000)))),
    ]
    if with_rubbish:
        kinds.append(lambda: bytes((tag_of(EngineStep), *draw.randbytes(draw.randint(0, 50)))))
    return [draw.choice(kinds)() for _ in range(count)]


def in_pieces(draw: random.Random, data: bytes) -> list[bytes]:
    mean = draw.choice([1, 5, 100, 10_000])
    pieces, start = [], 0
    while start < len(data):
        end = start + draw.randint(1, 2 * mean)
        pieces.append(data[start:end])
        start = end
    return pieces


@pytest.mark.parametrize("seed", range(20))
def test_without_streams_it_is_a_reader_of_frames(lane: Lane, seed: int) -> None:
    draw = random.Random(seed)
    frames = some_frames(draw, 60, with_rubbish=True)
    reader = FrameReader()
    got: list[bytes] = []
    for piece in in_pieces(draw, b"".join(map(framed, frames))):
        new = lane.reader.feed(piece)
        assert new == reader.feed(piece)
        got += new
    assert got == frames


@pytest.mark.parametrize("seed", range(20))
def test_beside_streams_all_else_is_what_it_was(lane: Lane, seed: int) -> None:
    draw = random.Random(seed)
    way, client = lane.enter(8)
    frames = some_frames(draw, 60)
    mine = bytes(encode(step(plain(8, 65), number=8)))
    sent = [each for frame in frames for each in (frame, mine)]
    got: list[bytes] = []
    for piece in in_pieces(draw, b"".join(map(framed, sent))):
        got += lane.reader.feed(piece)
    got += lane.reader.release()
    rest = bytes(encode(step(number=8)))
    assert [meaning(frame) for frame in got] == [meaning(rest if frame is mine else frame) for frame in sent]
    assert client.text == b"65 " * 60
    written = way.leave()
    assert written is not None
    assert len(written.ids) == 60


def meaning(frame: bytes) -> str | None:
    """A step's length may be written in another form. None: nobody can read it."""
    try:
        return repr(decode(frame))
    except (ValueError, msgspec.MsgspecError):
        return None


def test_a_frame_that_is_too_long(lane: Lane) -> None:
    """What came before it is written and told."""
    _, client = lane.enter(7)
    good = framed(encode(step(plain(7, 65), number=3)))
    bad = struct.pack("<I", (1 << 28) + 1)
    with pytest.raises(ValueError, match="frame"):
        lane.reader.feed(good + bad)
    assert client.text == b"65 "
    assert [step_of(frame).stats.num_running for frame in lane.reader.release()] == [3]
    with pytest.raises(ValueError, match="frame"):
        FrameReader().feed(bad)


def test_half_a_step_is_left_to_python(lane: Lane) -> None:
    way, client = lane.enter(7)
    whole = bytes(encode(step(plain(7, 65), ODD["the prompt's logprobs"], plain(STRANGER, *range(20)))))
    for frame in (*(whole[:size] for size in range(1, len(whole))), whole + b"\0"):
        way.leave()
        way.enter(1)
        assert lane.reader.feed(framed(frame)) == [frame]
    assert client.text == b""


@pytest.mark.parametrize("size", [b"\xdd\xff\xff\xff\xff", b"\xdc\xff\xff"])
@pytest.mark.parametrize("place", range(3))
def test_a_length_that_cannot_be(lane: Lane, size: bytes, place: int) -> None:
    """No memory is taken for it."""
    lane.enter(7)
    head = [b"\x92", b"\x92\x91\x97\x07", b"\x92\x91\x97\x07\x91\x93\x41\xcb" + b"\0" * 8][place]
    frame = bytes((tag_of(EngineStep),)) + head + size + b"\0"
    assert lane.reader.feed(framed(frame)) == [frame]


@pytest.mark.parametrize("seed", range(5))
def test_spoiled_steps(lane: Lane, seed: int) -> None:
    """Where nothing of one is written, Python has the same of it."""
    draw = random.Random(seed)
    for _ in range(2000):
        frame = encode(step(plain(7, 65), ODD["other tokens"], plain(STRANGER, 1)))
        for _ in range(draw.randint(1, 3)):
            frame[draw.randrange(1, len(frame))] = draw.randrange(256)
        lane.lane.clear()
        _, client = lane.enter(7)
        [left] = [*lane.reader.feed(framed(frame)), *lane.reader.release()]
        if not client.text:
            assert meaning(left) == meaning(bytes(frame))


def test_the_fields_that_native_code_reads_by_their_place() -> None:
    """lane.cpp: ``output_fields``, ``token_fields``, ``read_output`` and ``take_step``."""
    assert RequestOutput.__struct_fields__ == (
        "request_id",
        "tokens",
        "finish_reason",
        "error",
        "prompt_logprobs",
        "num_cached_tokens",
        "scheduled_time",
        "num_steps",
    )
    assert TokenOutput.__struct_fields__ == ("token_id", "logprob", "top_tokens")
    assert EngineStep.__struct_fields__ == ("outputs", "stats")


def test_a_tokenizer_whose_tokens_have_no_text_of_their_own(lane: Lane) -> None:
    tokenizer: Any = SimpleNamespace(pieces=None, special_token_ids=frozenset())
    assert TokenLane(lane.lane, tokenizer).way(7, TEMPLATE, Client().outlet) is None


def test_a_sink_that_is_no_connection(lane: Lane, rich_tokenizer: Tokenizer) -> None:
    assert TokenLane(lane.lane, rich_tokenizer).way(7, TEMPLATE, object()) is None
