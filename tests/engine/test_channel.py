"""Frames between processes: whole however they come, never dropped, and never waited for."""

import os
import socket
from pathlib import Path

import pytest

from segue.engine.channel import FrameError, FrameReader, ListeningEngine, Peer, framed, split_endpoint

WAIT_S = 60.0


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "engine")


def poll_until(engine: ListeningEngine, count: int) -> list[tuple[Peer, bytes]]:
    found: list[tuple[Peer, bytes]] = []
    while len(found) < count:
        frames, left, files = engine.poll(WAIT_S)
        assert (left, files) == ([], [])
        found += frames
    return found


def connect(path: str) -> socket.socket:
    server = socket.socket(socket.AF_UNIX)
    server.settimeout(WAIT_S)
    server.connect(path)
    return server


def read(server: socket.socket, reader: FrameReader, count: int) -> list[bytes]:
    found: list[bytes] = []
    while len(found) < count:
        found += reader.feed(server.recv(1 << 16))
    return found


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7, 100])
def test_frames_come_whole_in_pieces_of_any_size(size: int) -> None:
    frames = [b"", b"a", b"bcd" * 10, b"", b"e" * 300]
    data = b"".join(map(framed, frames))
    reader = FrameReader()
    found = [frame for start in range(0, len(data), size) for frame in reader.feed(data[start : start + size])]
    assert found == frames


def test_what_is_no_frame() -> None:
    with pytest.raises(FrameError):
        FrameReader().feed(b"GET / HTTP/1.1\r\n\r\n")


@pytest.mark.parametrize(
    ("endpoint", "place"),
    [("ipc:///tmp/a b", "/tmp/a b"), ("tcp://localhost:80", ("localhost", 80)), ("tcp://[::1]:80", ("::1", 80))],
)
def test_endpoints(endpoint: str, place: object) -> None:
    assert split_endpoint(endpoint) == place


@pytest.mark.parametrize("endpoint", ["", "ipc://", "tcp://localhost", "tcp://:80", "udp://localhost:1", "/tmp/a"])
def test_what_is_no_endpoint(endpoint: str) -> None:
    with pytest.raises(ValueError, match="not an endpoint"):
        split_endpoint(endpoint)


def test_several_servers(path: str) -> None:
    engine = ListeningEngine(f"ipc://{path}")
    servers = [connect(path) for _ in range(3)]
    for number, server in enumerate(servers):
        server.sendall(framed(b"hello %d" % number) + framed(b"again"))
    frames = poll_until(engine, 6)
    peers = {frame: peer for peer, frame in frames if frame != b"again"}
    assert sorted(peers) == [b"hello 0", b"hello 1", b"hello 2"]
    assert len(set(peers.values())) == 3
    for number, server in enumerate(servers):
        engine.send(peers[b"hello %d" % number], b"you are %d" % number)
        assert read(server, FrameReader(), 1) == [b"you are %d" % number]
    servers[1].close()
    assert engine.poll(WAIT_S) == ([], [peers[b"hello 1"]], [])
    engine.send(peers[b"hello 1"], b"nobody hears this")
    engine.close()
    assert servers[0].recv(1) == b""
    for server in servers:
        server.close()


def test_what_a_stopped_server_does_not_read_is_kept_in_order(path: str) -> None:
    engine = ListeningEngine(f"ipc://{path}")
    server = connect(path)
    server.sendall(framed(b"hello"))
    ((peer, _),) = poll_until(engine, 1)
    frames = [number.to_bytes(4, "big") * 50_000 for number in range(40)]
    for frame in frames:
        engine.send(peer, frame)
    assert peer.unsent
    found: list[bytes] = []
    reader = FrameReader()
    while len(found) < len(frames):
        found += reader.feed(server.recv(1 << 20))
        assert engine.poll(0.0) == ([], [], [])
    assert found == frames
    assert not peer.unsent
    assert engine.poll(0.0) == ([], [], [])
    engine.close()
    server.close()


def test_frames_of_one_call_go_in_one_piece(path: str) -> None:
    engine = ListeningEngine(f"ipc://{path}")
    server = connect(path)
    server.sendall(framed(b"hello"))
    ((peer, _),) = poll_until(engine, 1)
    engine.send(peer, b"1", bytearray(b"22"))
    assert FrameReader().feed(server.recv(1024)) == [b"1", b"22"]
    server.close()
    assert engine.poll(WAIT_S)[1] == [peer]
    engine.send(peer, b"3")
    engine.close()


def test_news(path: str) -> None:
    engine = ListeningEngine(f"ipc://{path}")
    assert not engine.has_news
    server = connect(path)
    server.sendall(framed(b"hello"))
    ((peer, _),) = poll_until(engine, 1)
    assert not engine.has_news
    server.sendall(framed(b"again"))
    assert engine.has_news
    assert engine.poll(WAIT_S)[0] == [(peer, b"again")]
    server.close()
    assert engine.has_news
    engine.close()


def test_a_server_that_leaves_while_it_is_sent_to(path: str) -> None:
    engine = ListeningEngine(f"ipc://{path}")
    server = connect(path)
    server.sendall(framed(b"hello"))
    ((peer, _),) = poll_until(engine, 1)
    server.close()
    engine.send(peer, b"x")
    assert engine.poll(WAIT_S) == ([], [peer], [])
    assert engine.poll(0.0) == ([], [], [])
    engine.close()


def test_a_stranger_is_hung_up_on(path: str) -> None:
    engine = ListeningEngine(f"ipc://{path}")
    stranger = connect(path)
    stranger.sendall(b"GET / HTTP/1.1\r\n\r\n")
    left: list[Peer] = []
    while not left:
        frames, left, _ = engine.poll(WAIT_S)
        assert frames == []
    assert stranger.recv(1) == b""
    engine.close()
    stranger.close()


def test_watched_files_end_the_wait(path: str) -> None:
    engine = ListeningEngine(f"ipc://{path}")
    reading, writing = os.pipe()
    engine.watch(reading)
    os.write(writing, b"x")
    assert engine.poll(WAIT_S) == ([], [], [reading])
    engine.close()
    os.close(reading)
    os.close(writing)


def test_a_socket_that_was_left_behind_is_replaced_and_no_other_file(path: str) -> None:
    first = ListeningEngine(f"ipc://{path}")
    second = ListeningEngine(f"ipc://{path}")
    first.close()
    server = connect(path)
    server.sendall(framed(b"hello"))
    assert [frame for _, frame in poll_until(second, 1)] == [b"hello"]
    server.close()
    second.close()
    assert not Path(path).exists()
    Path(path).write_text("mine")
    with pytest.raises(OSError, match="in use"):
        ListeningEngine(f"ipc://{path}")
    assert Path(path).read_text() == "mine"


def test_tcp() -> None:
    engine = ListeningEngine("tcp://127.0.0.1:0")
    with socket.create_connection(engine._listener.getsockname(), WAIT_S) as server:
        server.sendall(framed(b"hello"))
        ((peer, frame),) = poll_until(engine, 1)
        assert frame == b"hello"
        engine.send(peer, b"you too")
        assert read(server, FrameReader(), 1) == [b"you too"]
    engine.close()
