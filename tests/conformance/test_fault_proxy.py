import asyncio
import json

import httpx
import pytest
from client.tgi_server import Reply, TgiServer, sse, stream_reply

from segue.conformance.fault_proxy import FaultProxy
from segue.conformance.faults import Answer, CutStream, Disconnect, ErrorEvent, Fault

BODY = {"inputs": "a b", "parameters": {"max_new_tokens": 3, "details": True}}


async def _post(proxy: FaultProxy, path: str = "/generate", **options: object) -> httpx.Response:
    async with httpx.AsyncClient() as http:
        return await http.post(proxy.url + path, json=BODY, **options)


@pytest.mark.parametrize("path", ["/generate", "/generate_stream", "/v1/chat/completions", "/no/such?route=1"])
async def test_answers_pass_through_unchanged(server: TgiServer, path: str) -> None:
    body = {**BODY, "messages": [{"role": "user", "content": "twö"}]}
    async with FaultProxy(server.url) as proxy, httpx.AsyncClient() as http:
        direct = await http.post(server.url + path, json=body)
        through = await http.post(proxy.url + path, json=body, headers={"x-mine": "1"})
    assert (through.status_code, through.content) == (direct.status_code, direct.content)
    framing = {"content-length", "transfer-encoding", "connection"}
    assert dict(through.headers).items() >= {k: v for k, v in direct.headers.items() if k not in framing}.items()
    first, second = server.posts
    assert (first.path, first.body) == (second.path, second.body)
    assert second.headers["x-mine"] == "1"


async def test_it_remembers_what_arrived(server: TgiServer) -> None:
    async with FaultProxy(server.url, clock=iter(range(100)).__next__) as proxy:
        async with httpx.AsyncClient() as http:
            await http.get(f"{proxy.url}/info")
        await _post(proxy, headers={"authorization": "Bearer k1", "x-request-id": "r1"})
        info, post = proxy.seen
    assert (info.number, info.method, info.path, info.body, info.arrived_at) == (0, "GET", "/info", None, 0)
    assert (post.number, post.key, post.request_id, post.body, post.arrived_at) == (1, "k1", "r1", BODY, 1)
    assert (post.status, post.is_injected, post.num_generated) == (200, False, 3)
    assert proxy.generations == [post]
    assert "k1" not in repr(post)


@pytest.mark.parametrize(
    ("settings", "key"),
    [({}, None), ({"upstream_key": "real"}, "real"), ({"passes_keys": True}, "theirs")],
)
async def test_keys_of_clients_reach_the_server_only_if_they_are_its_own(
    server: TgiServer, settings: dict[str, object], key: str | None
) -> None:
    async with FaultProxy(server.url, **settings) as proxy:
        await _post(proxy, headers={"authorization": "Bearer theirs"})
        assert proxy.seen[0].key == "theirs"
    assert server.posts[0].key == key


@pytest.mark.parametrize("base", ["/base", "/base/"])
async def test_a_server_below_a_path(server: TgiServer, base: str) -> None:
    async with FaultProxy(server.url + base) as proxy:
        await _post(proxy)
        await _post(proxy, "/")
    assert [seen.path for seen in server.posts] == ["/base/generate", "/base"]


async def test_injected_answers_come_in_order_and_spare_questions(server: TgiServer) -> None:
    async with FaultProxy(server.url) as proxy, httpx.AsyncClient() as http:
        proxy.inject(Answer(429, "overloaded", {"retry-after": "3"}), Answer(500))
        assert (await http.get(f"{proxy.url}/health")).status_code == 200
        busy, broken, well = [await _post(proxy) for _ in range(3)]
        assert [seen.is_injected for seen in proxy.seen] == [False, True, True, False]
    assert (busy.status_code, busy.headers["retry-after"]) == (429, "3")
    assert busy.json() == {"error": "injected 429", "error_type": "overloaded"}
    assert (broken.status_code, broken.json()) == (500, {"error": "injected 500"})
    assert well.status_code == 200
    assert len(server.posts) == 1


async def test_disconnect(server: TgiServer) -> None:
    async with FaultProxy(server.url) as proxy:
        proxy.inject(Disconnect())
        with pytest.raises((httpx.RemoteProtocolError, httpx.ReadError)):
            await _post(proxy)
    assert server.posts == []


async def _read_stream(proxy: FaultProxy) -> tuple[list[dict[str, object]], bool]:
    """(events, whether the connection broke)."""
    text = ""
    async with httpx.AsyncClient() as http, http.stream("POST", f"{proxy.url}/generate_stream", json=BODY) as response:
        broke = False
        try:
            async for part in response.aiter_text():
                text += part
        except (httpx.RemoteProtocolError, httpx.ReadError):
            broke = True
    return [json.loads(event.removeprefix("data:")) for event in text.split("\n\n") if event], broke


@pytest.mark.parametrize("after", [0, 1, 2])
async def test_cut_stream(server: TgiServer, after: int) -> None:
    async with FaultProxy(server.url) as proxy:
        whole, broke = await _read_stream(proxy)
        assert not broke
        proxy.inject(CutStream(after))
        cut, broke = await _read_stream(proxy)
    assert broke
    assert cut == whole[:after]


async def test_error_event(server: TgiServer) -> None:
    async with FaultProxy(server.url) as proxy:
        whole, _ = await _read_stream(proxy)
        proxy.inject(ErrorEvent(2, "out of luck", "generation"))
        events, broke = await _read_stream(proxy)
    assert not broke
    assert events == [*whole[:2], {"error": "out of luck", "error_type": "generation"}]


# The server may flush several events at once, or half of one.
@pytest.mark.parametrize("size", [1, 7, 10_000])
async def test_events_are_counted_however_they_are_cut_into_packets(server: TgiServer, size: int) -> None:
    content = b"".join(sse([{"n": number} for number in range(4)])).replace(b"\n\n", b"\r\n\r\n")
    parts = [content[start : start + size] for start in range(0, len(content), size)]
    server.replies.append(stream_reply(parts))
    async with FaultProxy(server.url) as proxy:
        proxy.inject(CutStream(3))
        assert await _read_stream(proxy) == ([{"n": 0}, {"n": 1}, {"n": 2}], True)


async def test_held_requests_arrive_but_go_no_further(server: TgiServer) -> None:
    async with FaultProxy(server.url) as proxy:
        with proxy.held() as release:
            calls = [asyncio.create_task(_post(proxy)) for _ in range(3)]
            await proxy.until(lambda: proxy.num_at_once == 3)
            assert server.posts == []
            release()
            await asyncio.gather(*calls)
        assert proxy.num_at_once == 0
        assert proxy.max_at_once == 3
    assert len(server.posts) == 3


async def test_waiting_in_vain_ends(server: TgiServer) -> None:
    async with FaultProxy(server.url, patience_s=0.01) as proxy:
        with pytest.raises(TimeoutError):
            await proxy.until(lambda: False)


# A proxy that reads on would keep the server generating for nobody.
async def test_a_client_that_leaves_is_let_go_at_the_server(server: TgiServer) -> None:
    with server.held():
        async with FaultProxy(server.url) as proxy:
            with pytest.raises(httpx.ReadTimeout):
                await _post(proxy, timeout=0.2)
            await proxy.until(lambda: proxy.num_at_once == 0)
            await asyncio.to_thread(server.wait_for, lambda: server.num_disconnects == 1)


async def test_a_server_that_is_away() -> None:
    with TgiServer() as gone:
        url = gone.url
    async with FaultProxy(url) as proxy:
        response = await _post(proxy)
    assert response.status_code == 502
    assert "ConnectError" in response.json()["error"]


async def test_a_server_that_breaks_off(server: TgiServer) -> None:
    server.replies.append(Reply(200, (b"half",), {"content-type": "text/plain"}, cut=True))
    async with FaultProxy(server.url) as proxy:
        with pytest.raises((httpx.RemoteProtocolError, httpx.ReadError)):
            await _post(proxy)


async def test_nonsense_is_refused(server: TgiServer) -> None:
    async with FaultProxy(server.url) as proxy:
        reader, writer = await asyncio.open_connection("127.0.0.1", httpx.URL(proxy.url).port)
        writer.write(b"hello\r\n\r\n")
        assert (await reader.read()).startswith(b"HTTP/1.1 400 ")
        writer.close()


@pytest.mark.parametrize("fault", [None, Answer(500), CutStream(1)])
async def test_leaving_the_proxy_ends_what_is_under_way(server: TgiServer, fault: Fault | None) -> None:
    async with FaultProxy(server.url) as proxy:
        if fault is not None:
            proxy.inject(fault)
        with proxy.held():
            call = asyncio.create_task(_post(proxy))
            await proxy.until(lambda: proxy.num_at_once == 1)
            await proxy.__aexit__(None, None, None)
            with pytest.raises((httpx.RemoteProtocolError, httpx.ReadError)):
                await call
