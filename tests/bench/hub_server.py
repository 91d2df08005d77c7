"""A hub of our own on this machine, as far as loaders of models ask one: files of a repository at a commit, with the
headers that huggingface_hub reads, its errors, and the listing of a commit."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import huggingface_hub
import pytest


class HubServer:
    """Repositories: owner/name -> commit -> folder. The last commit that was pushed is main; `tags` name others.
    environment: by which other processes ask this hub."""

    def __init__(self) -> None:
        self.environment: dict[str, str] = {}
        self.repositories: dict[str, dict[str, Path]] = {}
        self.tags: dict[str, str] = {}
        self.asked: list[str] = []

    def push(self, name: str, folder: Path) -> str:
        """The new commit of main. folder: a state of the repository, which must not change."""
        commits = self.repositories.setdefault(name, {})
        commit = hashlib.sha1(f"{name}/{len(commits)}".encode()).hexdigest()
        commits[commit] = folder
        return commit

    def commit(self, name: str, revision: str) -> str | None:
        """What a revision stands for; None for one that is not there."""
        commits = self.repositories[name]
        commit = list(commits)[-1] if revision == "main" else self.tags.get(revision, revision)
        return commit if commit in commits else None

    def answer(self, path: str) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body."""
        self.asked.append(path)
        parts = [unquote(part) for part in path.partition("?")[0].strip("/").split("/")]
        if not path.strip("/"):
            return 200, {}, b""
        interface = parts[:2] == ["api", "models"]
        owner, name, verb, revision, *rest = [*(parts[2:] if interface else parts), "", "", ""][: len(parts) + 3]
        if (repository := f"{owner}/{name}") not in self.repositories:
            return 404, {"X-Error-Code": "RepoNotFound"}, b""
        commit = self.commit(repository, revision or "main")
        if commit is None:
            return 404, {"X-Error-Code": "RevisionNotFound"}, b""
        folder, inside = self.repositories[repository][commit], "/".join(each for each in rest if each)
        if interface:
            return self._listing(repository, commit, folder, verb, inside)
        headers = {"X-Repo-Commit": commit}
        if verb != "resolve" or not (file := folder / inside).is_file():
            return 404, {**headers, "X-Error-Code": "EntryNotFound"}, b""
        body = file.read_bytes()
        return 200, {**headers, "ETag": f'"{hashlib.sha256(body).hexdigest()}"'}, body

    @staticmethod
    def _listing(name: str, commit: str, folder: Path, verb: str, inside: str) -> tuple[int, dict[str, str], bytes]:
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        value: Any = {
            "id": name,
            "sha": commit,
            "siblings": [{"rfilename": str(path.relative_to(folder))} for path in files],
        }
        if verb == "tree":
            if not (folder / inside).is_dir():
                return 404, {"X-Error-Code": "EntryNotFound"}, b""
            value = [
                {
                    "type": "file",
                    "path": str(path.relative_to(folder)),
                    "size": path.stat().st_size,
                    "oid": hashlib.sha1(path.read_bytes()).hexdigest(),
                }
                for path in files
                if (folder / inside) in path.parents
            ]
        return 200, {"Content-Type": "application/json"}, json.dumps(value).encode()


def _handler(hub: HubServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        """One connection to a HubServer."""

        protocol_version = "HTTP/1.1"

        def _send(self, *, body: bool) -> None:
            status, headers, content = hub.answer(self.path)
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if body:
                self.wfile.write(content)

        def do_HEAD(self) -> None:
            """Without the content."""
            self._send(body=False)

        def do_GET(self) -> None:
            """With it."""
            self._send(body=True)

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing."""

    return Handler


@contextmanager
def serving(monkeypatch: pytest.MonkeyPatch, cache: Path) -> Iterator[HubServer]:
    """A hub that this process's loaders ask, with a cache of its own."""
    import transformers.utils.hub

    hub = HubServer()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(hub))
    endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    hub.environment = {"HF_ENDPOINT": endpoint, "HF_HUB_CACHE": str(cache), "HF_HUB_OFFLINE": "0"}
    threading.Thread(target=server.serve_forever, daemon=True).start()
    constants = huggingface_hub.constants
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    template = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(huggingface_hub.hf_api.api, "endpoint", endpoint)
    monkeypatch.setattr(transformers.utils.hub, "_hf_api", None)
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
