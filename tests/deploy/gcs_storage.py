"""A bucket of Google Cloud Storage, and its metadata server, as a real server on this machine."""

import base64
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

TOKEN = "ya29.token"
TOKEN_PATH = "/computeMetadata/v1/instance/service-accounts/default/token"


class Storage:
    """Speaks the part of the JSON API that lists and downloads objects; two objects a page."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.wants_token = False
        self.failures: list[int | None] = []
        """What becomes of the next requests: a status; 0: a body that is cut short; -1: a spoilt one; None: nothing."""
        self.downloads: list[str] = []
        self._lock = threading.Lock()
        storage = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                storage.answer(self)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))

    def __enter__(self) -> "Storage":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self._server.server_port}"

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        parts = urlsplit(request.path)
        if parts.path == TOKEN_PATH:
            assert request.headers["Metadata-Flavor"] == "Google"
            return _send(request, 200, json.dumps({"access_token": TOKEN}).encode())
        if self.wants_token and request.headers["Authorization"] != f"Bearer {TOKEN}":
            return _send(request, 401, b"{}")
        with self._lock:
            failure = self.failures.pop(0) if self.failures else None
        if failure is not None and failure > 0:
            return _send(request, failure, b"{}")
        bucket, _, name = parts.path.removeprefix("/storage/v1/b/").partition("/o")
        if bucket != "models":
            return _send(request, 404, b"{}")
        if name:
            return self._send_file(request, unquote(name[1:]), failure)
        return self._send_list(request, parse_qs(parts.query))

    def _send_file(self, request: BaseHTTPRequestHandler, name: str, failure: int | None) -> None:
        content = self.files[name]
        self.downloads.append(name)
        if failure == -1:
            content = b"?" * len(content)
        _send(request, 200, content, num_sent=len(content) // 2 if failure == 0 else None)

    def _send_list(self, request: BaseHTTPRequestHandler, query: dict[str, list[str]]) -> None:
        names = sorted(name for name in self.files if name.startswith(query.get("prefix", [""])[0]))
        start = int(query.get("pageToken", ["0"])[0])
        items = [
            {
                "name": name,
                "size": str(len(self.files[name])),
                "md5Hash": base64.b64encode(hashlib.md5(self.files[name]).digest()).decode(),
            }
            for name in names[start : start + 2]
        ]
        page: dict[str, Any] = {"items": items} if items else {}
        if start + 2 < len(names):
            page["nextPageToken"] = str(start + 2)
        _send(request, 200, json.dumps(page).encode())


def _send(request: BaseHTTPRequestHandler, status: int, body: bytes, num_sent: int | None = None) -> None:
    request.send_response(status)
    request.send_header("Content-Length", str(len(body)))
    request.end_headers()
    request.wfile.write(body[:num_sent])
    if num_sent is not None:
        request.close_connection = True
