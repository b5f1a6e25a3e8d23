"""A web server over a folder, as Cloud Storage, Firebase's endpoint, a CDN or nginx serve a release store."""

from __future__ import annotations

import gzip
import hashlib
import urllib.parse
from pathlib import Path

from tests.fakes.http_server import FakeServer, Request, Response

BUCKET = "models.example"


class StaticServer(FakeServer):
    """Serves the files below `root` at `/<path>`, and at Firebase's `/v0/b/<bucket>/o/<path in one segment>?alt=media`.

    Attributes:
        root: The folder.
        channel_cache_control: Of the objects below channels/; None for none. All others are immutable.
        has_etags: Whether answers carry an ETag, and If-None-Match is understood.
        has_ranges: Whether Range is understood; a server need not.
        compresses: `asked`: what clients ask for compressed is; `always`: everything is, against the rules.
        age: For how many seconds a cache on the way has had the answer.
    """

    def __init__(self, root: Path) -> None:
        super().__init__()
        self.root = root
        self.channel_cache_control: str | None = "no-store"
        self.has_etags = True
        self.has_ranges = True
        self.compresses = "never"
        self.age: int | None = None

    @property
    def firebase_endpoint(self) -> str:
        return f"{self.endpoint}/v0/b/{BUCKET}/o/"

    def handle(self, request: Request) -> Response:
        name = self._name_of(request)
        if request.method not in ("GET", "HEAD") or name is None:
            return Response(400)
        path = self.root / name
        if not path.is_file() or any(part.startswith(".") for part in Path(name).parts):
            return Response(404, b"not found")
        return self._serve(path.read_bytes(), name, request)

    def _name_of(self, request: Request) -> str | None:
        firebase = f"/v0/b/{BUCKET}/o/"
        if not request.path.startswith("/v0/"):
            return urllib.parse.unquote(request.path).lstrip("/")
        if not request.path.startswith(firebase) or request.query.get("alt") != "media":
            return None
        segment = request.path.removeprefix(firebase)
        return None if "/" in segment else urllib.parse.unquote(segment)

    def _serve(self, data: bytes, name: str, request: Request) -> Response:
        headers = {"Accept-Ranges": "bytes"} if self.has_ranges else {}
        is_channel = name.startswith("channels/") or "/channels/" in name
        cache_control = self.channel_cache_control if is_channel else "public, max-age=31536000, immutable"
        if cache_control is not None:
            headers["Cache-Control"] = cache_control
        if self.age is not None:
            headers["Age"] = str(self.age)
        etag = f'"{hashlib.md5(data).hexdigest()}"'
        if self.has_etags:
            headers["ETag"] = etag
            if request.headers.get("if-none-match") == etag:
                return Response(304, b"", headers)
        asked = "gzip" in request.headers.get("accept-encoding", "")
        if self.compresses == "always" or (self.compresses == "asked" and asked):
            headers["Content-Encoding"] = "gzip"
            data = gzip.compress(data, mtime=0)
        wanted = request.headers.get("range")
        if self.has_ranges and wanted is not None:
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
            if start >= len(data):
                return Response(416, b"", {**headers, "Content-Range": f"bytes */{len(data)}"})
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
            return Response(206, data[start:], headers)
        return Response(200, data, headers)
