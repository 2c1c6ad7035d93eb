"""A Hugging Face Hub in a thread: the few endpoints that a download uses, over real HTTP."""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

SHA = "a" * 40


@dataclass
class FakeRepo:
    files: dict[str, bytes]
    is_gated: bool = False
    token: str | None = None
    """The repository exists only for those who send it."""
    pipeline_tag: str | None = "text-generation"
    revisions: tuple[str, ...] = ("main", SHA)


@dataclass
class FakeHub:
    repos: dict[str, FakeRepo] = field(default_factory=dict)
    failures: list[int] = field(default_factory=list)
    """Statuses to answer the next requests with, before anything else."""
    requests: list[str] = field(default_factory=list)
    """``GET path`` and ``HEAD path``, in order of arrival."""
    url: str = ""

    @contextmanager
    def running(self) -> Iterator["FakeHub"]:
        server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        self.url = f"http://127.0.0.1:{server.server_address[1]}"
        try:
            yield self
        finally:
            server.shutdown()
            thread.join()
            server.server_close()


def _handler(hub: FakeHub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._answer()

        def do_HEAD(self) -> None:
            self._answer()

        def log_message(self, *_: Any) -> None:
            pass

        def _answer(self) -> None:
            hub.requests.append(f"{self.command} {self.path}")
            if hub.failures:
                return self._send(hub.failures.pop(0), b"{}")
            parts = self.path.split("?")[0].strip("/").split("/")
            if parts[:2] == ["api", "models"]:
                return self._model_info("/".join(parts[2:4]), parts[5] if len(parts) > 5 else "main")
            return self._file("/".join(parts[:2]), parts[3], "/".join(parts[4:]))

        def _repo(self, name: str, revision: str) -> FakeRepo | None:
            repo = hub.repos.get(name)
            sent = self.headers.get("Authorization", "").removeprefix("Bearer ")
            if repo is None or (repo.token and repo.token != sent):
                self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"})
                return None
            if revision not in repo.revisions:
                self._send(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
                return None
            return repo

        def _model_info(self, name: str, revision: str) -> None:
            repo = self._repo(name, revision)
            if repo is not None:
                info = {"id": name, "sha": SHA, "pipeline_tag": repo.pipeline_tag}
                info |= {"siblings": [{"rfilename": file} for file in repo.files]}
                self._send(200, json.dumps(info).encode())

        def _file(self, name: str, revision: str, file: str) -> None:
            repo = self._repo(name, revision)
            if repo is None:
                return
            if repo.is_gated:
                self._send(403, b"{}", {"X-Error-Code": "GatedRepo"})
            elif file not in repo.files:
                self._send(404, b"{}", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": SHA})
            else:
                content = repo.files[file]
                headers = {"X-Repo-Commit": SHA, "ETag": f'"{hashlib.sha256(content).hexdigest()}"'}
                self._send(200, content, headers)

        def _send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
            self.send_response(status)
            for key, value in (headers or {}).items():
                self.send_header(key, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

    return Handler
