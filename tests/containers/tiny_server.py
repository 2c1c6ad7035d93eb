"""A real server with the launcher's flags that is up at once, and can be told to misbehave (TINY_BEHAVIOUR).

It also tells what it was given: ``GET /given`` answers its arguments and variables. Standard library only, so that it
runs in a bare image.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Handler(BaseHTTPRequestHandler):
    model_id = ""

    def do_GET(self) -> None:
        match self.path:
            case "/health":
                self._answer(200, None)
            case "/info":
                self._answer(200, {"model_id": self.model_id, "max_total_tokens": 64})
            case "/given":
                self._answer(200, {"argv": sys.argv[1:], "env": dict(os.environ), "pid": os.getpid()})
            case _:
                self._answer(404, {"error": "no such page"})

    def _answer(self, status: int, body: dict[str, Any] | None) -> None:
        content = b"" if body is None else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        pass


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model-id", default=os.environ.get("MODEL_ID"))
    parser.add_argument("--port", type=int, default=int(os.environ.get("PORT", "80")))
    options, _ = parser.parse_known_args()
    behaviour = os.environ.get("TINY_BEHAVIOUR", "")
    print(f"Serving {options.model_id}", flush=True)
    if behaviour == "deaf":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    else:
        signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
    before_listening(behaviour)
    Handler.model_id = "another/model" if behaviour == "wrong model" else options.model_id
    server = ThreadingHTTPServer(("0.0.0.0", options.port), Handler)
    print("Connected", flush=True)
    if behaviour == "dies later":
        threading.Timer(0.5, os._exit, (7,)).start()
    server.serve_forever(poll_interval=0.02)
    print("Stopped in order", flush=True)


def before_listening(behaviour: str) -> None:
    match behaviour:
        case "crash":
            print(f"cannot load with token {os.environ.get('HF_TOKEN')}", flush=True)
            sys.exit("Error: ShardCannotStart")
        case "last words in pieces":
            for piece in ("Error: ", "Shard", "Failed", "\n"):
                sys.stderr.write(piece)
                sys.stderr.flush()
                time.sleep(0.01)
            sys.exit(1)
        case "out of memory":
            sys.exit("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB")
        case "killed":
            os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(60)  # the first process of a container cannot kill itself
        case "eats memory":
            hoard = []
            while True:
                hoard.append(b"x" * (16 << 20))
        case "port in use":
            sys.exit("OSError: [Errno 98] Address already in use")
        case "never ready":
            signal.pause()
        case "leaves a worker":
            worker = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
            print(f"worker {worker.pid}", flush=True)
            sys.exit("Error: ShardFailed")


if __name__ == "__main__":
    main()
