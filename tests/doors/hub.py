"""A hub on this machine: as much of its protocol as publishing and fetching three small files takes."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

COMMIT = "c0" * 20


def _handler(folder: Path) -> type[BaseHTTPRequestHandler]:
    """Serves `folder/ORG/REPO/FILE`; what was asked of it is in `folder/asked`."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None: ...

        def _answer(self, body: bytes, **headers: str) -> None:
            self.send_response(200)
            for name, value in {"Content-Length": str(len(body)), "X-Repo-Commit": COMMIT, **headers}.items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def _json(self, value: object) -> None:
            self._answer(json.dumps(value).encode(), Content_Type="application/json")

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            path = urlsplit(self.path).path
            with (folder / "asked").open("a", encoding="utf-8") as file:
                file.write(f"{path} {body.decode()[:300]}\n")
            if path.endswith("/repos/create"):
                self._json({"url": f"http://{self.headers['Host']}/org/repo"})
            elif path.endswith("/validate-yaml"):
                self._json({"errors": [], "warnings": []})
            elif "/preupload/" in path:
                asked = json.loads(body)["files"]
                self._json(
                    {"files": [{"path": entry["path"], "uploadMode": "regular", "shouldIgnore": False} for entry in asked]}
                )
            elif "/commit/" in path:
                repo = folder.joinpath(*path.split("/")[3:5])
                for line in body.decode().splitlines():
                    entry = json.loads(line)
                    if entry["key"] == "file":
                        place = repo / entry["value"]["path"]
                        place.parent.mkdir(parents=True, exist_ok=True)
                        place.write_bytes(base64.b64decode(entry["value"]["content"]))
                self._json(
                    {
                        "success": True,
                        "commitOid": COMMIT,
                        "commitUrl": f"http://{self.headers['Host']}/org/repo/commit/{COMMIT}",
                    }
                )
            else:
                self.send_error(404)

        def do_GET(self) -> None:
            parts = unquote(urlsplit(self.path).path).strip("/").split("/")
            if parts[:2] == ["api", "models"]:
                repo = folder.joinpath(*parts[2:4])
                if "tree" in parts:
                    kept = [{"type": "file", "path": p.name, "size": p.stat().st_size, "oid": COMMIT} for p in repo.iterdir()]
                    return self._json(kept)
                names = [{"rfilename": path.name} for path in sorted(repo.iterdir())] if repo.is_dir() else []
                self._json({"id": "/".join(parts[2:4]), "sha": COMMIT, "siblings": names, "private": False, "tags": []})
            elif len(parts) == 5 and (file := folder.joinpath(*parts[:2], parts[4])).is_file():
                data = file.read_bytes()
                self._answer(data, ETag=f'"{hashlib.sha1(data).hexdigest()}"', Content_Type="application/octet-stream")
            else:
                self.send_error(404)

        do_HEAD = do_GET  # noqa: N815 (the name that http.server asks for)

    return Handler


@contextmanager
def hub(folder: Path) -> Iterator[str]:
    """The address of a hub that keeps its repositories in `folder`."""
    folder.mkdir(exist_ok=True)
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(folder))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def with_hub(root: Path) -> Iterator[Mapping[str, str]]:
    """For a row: the hub runs while its command does."""
    with hub(root / "hub_repositories") as address:
        yield {"HF_ENDPOINT": address, "HF_TOKEN": "hf_of_a_test", "HF_HUB_OFFLINE": "0", "no_proxy": "127.0.0.1"}
