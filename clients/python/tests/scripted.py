"""A server that answers as it is told. The real collector is asked in test/e2e; this one fails in ways that it can't be made to: an
error of its own, a request for patience, a proxy's answer, silence."""

from __future__ import annotations

import json
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Tuple


class Seen(NamedTuple):
    path: str
    id: str
    authorization: str
    entries: List[Dict[str, Any]]
    at: float


#: Status, headers, and a problem document or a text.
Answer = Tuple[int, Dict[str, str], object]
TAKEN: Answer = (200, {}, {"accepted": 1, "duplicate": False})

#: What is answered to the nth request, from 0; None is silence.
Script = Callable[[Seen, int], Optional[Answer]]


class ScriptedServer:
    def __init__(self, script: Script = lambda seen, index: TAKEN, port: int = 0, keeps: bool = True) -> None:
        self.seen: List[Seen] = []
        self.silence = threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self.do_POST()

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
                entries = [json.loads(line) for line in body.splitlines()]
                seen = Seen(
                    self.path,
                    self.headers.get("Idempotency-Key", ""),
                    self.headers.get("Authorization", ""),
                    entries,
                    time.monotonic(),
                )
                outer.seen.append(seen)
                answer = script(seen, len(outer.seen) - 1)
                if answer is None:
                    outer.silence.wait(30)
                    self.close_connection = True
                    return
                status, headers, content = answer
                text = (content if isinstance(content, str) else json.dumps(content)).encode()
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)
                # Without a word to the client, as a server that ends does.
                self.close_connection = not keeps

            def log_message(self, format: str, *arguments: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    @property
    def values(self) -> List[object]:
        return [entry.get("value") for seen in list(self.seen) for entry in seen.entries]

    def __enter__(self) -> ScriptedServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.silence.set()
        self._server.shutdown()
        self._server.server_close()


def nobody() -> Tuple[int, str]:
    """A port of loopback on which nobody listens."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = int(listener.getsockname()[1])
    return port, f"http://127.0.0.1:{port}"


def eventually(what: str, ask: Callable[[], object], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not ask():
        if time.monotonic() > end:
            raise AssertionError(f"Within {seconds} s there was not: {what}")
        time.sleep(0.01)
