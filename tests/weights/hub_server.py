"""A stand-in of the hub over HTTP on this machine: what it says of a repository, and parts of its files."""

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

COMMIT = "c" * 40


class _Handler(BaseHTTPRequestHandler):
    """Answers the routes that planning asks for."""

    server: Any

    def do_GET(self) -> None:
        """Say what a repository holds, or give a range of a file."""
        self.server.asked.append((self.path, self.headers.get("Range")))
        if found := re.fullmatch(r"/api/models/([\w-]+/[\w.-]+)(?:/revision/([\w.-]+))?", self.path):
            self._say(self.server.root / found[1], found[2])
        elif found := re.fullmatch(rf"/([\w-]+/[\w.-]+)/resolve/{COMMIT}/([\w.-]+)", self.path):
            self._give(self.server.root / found[1] / found[2])
        else:
            self._answer(404, b"")

    def _say(self, folder: Path, revision: str | None) -> None:
        if not folder.is_dir() or revision not in (None, "main", COMMIT):
            code = "RevisionNotFound" if folder.is_dir() else "RepoNotFound"
            self._answer(404, b"{}", {"X-Error-Code": code})
            return
        files = [{"rfilename": path.name} for path in sorted(folder.iterdir())]
        self._answer(200, json.dumps({"id": folder.name, "sha": COMMIT, "siblings": files}).encode())

    def _give(self, file: Path) -> None:
        whole = file.read_bytes()
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if asked is None or not self.server.in_parts:
            self._answer(200, whole)
            return
        start, stop = int(asked[1]), min(int(asked[2]) + 1, len(whole))
        self._answer(206, whole[start:stop], {"Content-Range": f"bytes {start}-{stop - 1}/{len(whole)}"})

    def _answer(self, status: int, content: bytes, headers: dict[str, str] | None = None) -> None:
        self.server.sent += len(content)
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *words: object) -> None:
        """Say nothing."""


class Hub(ThreadingHTTPServer):
    """Serves the folders `owner/name` below a root.

    Attributes:
        asked: paths and ranges, in their order.
        sent: bytes of all answers.
        in_parts: whether a range is given where one is asked for.
    """

    def __init__(self, root: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.root = root
        self.asked: list[tuple[str, str | None]] = []
        self.sent = 0
        self.in_parts = True

    @property
    def address(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.server_port}"


@contextmanager
def hub_of(root: Path) -> Iterator[Hub]:
    """Serve a folder until the context is left."""
    with Hub(root) as hub:
        thread = threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        try:
            yield hub
        finally:
            hub.shutdown()
            thread.join()
