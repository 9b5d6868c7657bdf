"""A Hugging Face hub of one repository on a loopback port: enough of its API to fetch files.

Source: what huggingface_hub 2.4 asks for: /api/models/REPO/revision/REV, and HEAD and GET of
/REPO/resolve/REV/FILE with ETag, X-Repo-Commit, X-Linked-Etag and X-Linked-Size.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "c0ffee" + "0" * 34


@dataclass
class Hub:
    """What the repository holds, and how badly it is served."""

    repo: str
    files: dict[str, bytes]
    drop_after: int | None = None
    """Close the connection after so many bytes of a GET; None: serve it whole."""
    drops: int = 0
    """How many GETs are broken off; then they are served whole."""
    lies: set[str] = field(default_factory=set)
    """Files that arrive with other bytes than were announced."""
    status: int = 200
    """Answer to every request, if not 200."""
    asked: list[str] = field(default_factory=list)
    """Method, path and Range of every request, in order."""
    url: str = ""

    def sha256(self, name: str) -> str:
        return hashlib.sha256(self.files[name]).hexdigest()


@contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    """Serve the hub on a free port until the block ends."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"hub": hub}))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    hub.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def log_message(self, *arguments: object) -> None:
        pass

    def _answer(self, with_body: bool) -> None:
        path = self.path.partition("?")[0]
        wanted = self.headers.get("Range")
        self.hub.asked.append(f"{self.command} {path}{f' {wanted}' if wanted else ''}")
        name = path.removeprefix(f"/{self.hub.repo}/resolve/").partition("/")[2]
        if self.hub.status != 200:
            self._send(self.hub.status, b"{}", {"X-Error-Message": "the hub is unwell"})
        elif path == f"/api/models/{self.hub.repo}/revision/main":
            self._send(200, json.dumps(_description(self.hub)).encode(), {})
        elif name in self.hub.files:
            self._send_file(name, wanted, with_body)
        else:
            code = "RepoNotFound" if "/api/" in path else "EntryNotFound"
            self._send(404, b"{}", {"X-Error-Code": code})

    def _send_file(self, name: str, wanted: str | None, with_body: bool) -> None:
        data = self.hub.files[name]
        if name in self.hub.lies and with_body:
            data = bytes(len(data))
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted else 0
        headers = {
            "ETag": f'"{self.hub.sha256(name)}"',
            "X-Repo-Commit": COMMIT,
            "X-Linked-Etag": f'"{self.hub.sha256(name)}"',
            "X-Linked-Size": str(len(data)),
            "Accept-Ranges": "bytes",
        }
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        self._send(206 if start else 200, data[start:], headers, with_body)

    def _send(
        self, status: int, body: bytes, headers: dict[str, str], with_body: bool = True
    ) -> None:
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(key, value)
        self.end_headers()
        if not with_body:
            return
        if self.hub.drops and self.hub.drop_after is not None and len(body) > self.hub.drop_after:
            self.hub.drops -= 1
            self.wfile.write(body[: self.hub.drop_after])
            self.wfile.flush()
            self.close_connection = True
            return
        self.wfile.write(body)


def _description(hub: Hub) -> dict[str, object]:
    return {
        "id": hub.repo,
        "sha": COMMIT,
        "siblings": [
            {
                "rfilename": name,
                "size": len(data),
                "blobId": "0" * 40,
                "lfs": {"sha256": hub.sha256(name), "size": len(data), "pointerSize": 130},
            }
            for name, data in hub.files.items()
        ],
    }
