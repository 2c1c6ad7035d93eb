import re
from collections.abc import Callable

import pytest
from serving import Serving

from segue.server.app import OPERATIONS

Serve = Callable[..., Serving]


@pytest.mark.parametrize("path", ["/docs", "/docs/", "/"])
async def test_R13_pages_load_nothing_from_elsewhere(serve: Serve, path: str) -> None:
    reply = await serve().http.get(path, headers={"accept": "text/html,*/*;q=0.8"})
    assert reply.headers["content-type"] == "text/html; charset=utf-8"
    assert not re.search(r"https?://|src=|@import|<link", reply.text)


async def test_R13_the_page_has_an_example_for_every_request(serve: Serve) -> None:
    text = (await serve().http.get("/docs")).text
    bodies = text.split("const BODIES = {")[1].split("};")[0]
    assert set(re.findall(r'^  "(/[^"]*)"', bodies, re.MULTILINE)) == {each.path for each in OPERATIONS if each.request}


async def test_R7_the_root_is_the_health_for_all_but_browsers(serve: Serve) -> None:
    app = serve()
    for accept in ("*/*", "application/json", ""):
        assert (await app.http.get("/", headers={"accept": accept})).content == b""
    app.engine.is_healthy = False
    assert (await app.http.get("/")).status_code == 503
