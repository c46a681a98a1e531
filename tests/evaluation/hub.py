"""A stand-in of the Hugging Face hub on this machine: folders served by the addresses that the real one has."""

from __future__ import annotations

import json
import re
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

COMMIT = "0" * 39 + "1"


class Hub(ThreadingHTTPServer):
    """Serves ROOT/models/OWNER/NAME and ROOT/datasets/OWNER/NAME; `address` is what HF_ENDPOINT must say."""

    def __init__(self, root: Path, port: int = 0) -> None:
        self.root = root
        super().__init__(("127.0.0.1", port), _Handler)
        self.address = f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *said: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        if found := re.fullmatch(r"/api/(models|datasets)/([^/]+/[^/]+)(/revision/[^/]+)?", path):
            return self._json(self._info(found[1], found[2]))
        if found := re.fullmatch(r"/api/(models|datasets)/([^/]+/[^/]+)/tree/[^/]+/?(.*)", path):
            recursive = "recursive=true" in self.path.lower()
            return self._json(self._files(found[1], found[2], found[3], recursive))
        if found := re.fullmatch(r"/(datasets/)?([^/]+/[^/]+)/resolve/[^/]+/(.+)", path):
            file = self.server.root / ("datasets" if found[1] else "models") / found[2] / found[3]
            if file.is_file():
                return self._file(file)
        self._send(404, b"{}", {"X-Error-Code": "EntryNotFound" if "/resolve/" in path else "RepoNotFound"})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
        found = re.fullmatch(r"/api/(models|datasets)/([^/]+/[^/]+)/paths-info/[^/]+", unquote(self.path))
        asked = json.loads(body)["paths"] if body.startswith("{") else parse_qs(body).get("paths", [])
        self._json([f for f in self._files(found[1], found[2]) if f["path"] in asked] if found else [])

    def _files(self, kind: str, name: str, under: str = "", recursive: bool = True) -> list[dict]:
        """What is in a folder of a repository; folders too, as the real one has them."""
        folder = self.server.root / kind / name
        found = sorted((folder / under).rglob("*") if recursive else (folder / under).glob("*"))
        return [
            {"type": "directory" if p.is_dir() else "file", "path": p.relative_to(folder).as_posix()}
            | {"size": 0 if p.is_dir() else p.stat().st_size, "oid": str(len(p.name))}
            for p in found
        ]

    def _info(self, kind: str, name: str) -> dict | None:
        files = [{"rfilename": f["path"]} for f in self._files(kind, name) if f["type"] == "file"]
        base = {"id": name, "sha": COMMIT, "siblings": files, "private": False, "gated": False, "disabled": False}
        return (
            base | {"tags": [], "downloads": 0, "likes": 0, "lastModified": "2026-01-01T00:00:00.000Z"}
            if files
            else None
        )

    def _json(self, value: object) -> None:
        code = {"X-Error-Code": "RepoNotFound"} if value is None else {}
        self._send(
            404 if value is None else 200, json.dumps(value).encode(), {"Content-Type": "application/json"} | code
        )

    def _file(self, file: Path) -> None:
        data, status, whole = file.read_bytes(), 200, file.stat().st_size
        heads = {"ETag": f'"{whole}{file.name}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        if part := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            first, last = int(part[1]), int(part[2] or whole - 1)
            data, status = data[first : last + 1], 206
            heads["Content-Range"] = f"bytes {first}-{min(last, whole - 1)}/{whole}"
        self._send(status, data, heads)

    def _send(self, status: int, data: bytes, heads: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in (heads | {"Content-Length": str(len(data))}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)


if __name__ == "__main__":
    with Hub(Path(sys.argv[1])) as hub:
        print(hub.address, flush=True)
        hub.serve_forever()
