"""A small Hugging Face Hub on 127.0.0.1, for tests of uploading and downloading models and datasets.

It speaks the endpoints that `huggingface_hub` calls for model and dataset repositories: whoami, repository creation,
upload by preupload, Git LFS and commit, info, tree, refs, branches, tags, and resolve with the LFS redirect to another
host. It answers as the Hub does also where a request is wrong: 401 without a token, the `X-Error-Code` headers, 400
for a body that does not fit, and 404 for an endpoint it does not know, which is noted in `unknown_requests`.
Xet storage is not offered; the client's Xet upload has no way back to LFS, so it is switched off by its variable.

The endpoints themselves are in `hub_endpoints`. State lies in one folder: `blobs/<sha256>` and
`repos/<owner>/<name>.json`, the refs and the full file map of every commit.
"""

import hashlib
import importlib
import json
import re
import secrets
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
from hub_endpoints import ROUTES, HttpError, git_oid

CLIENT_VARIABLES = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_TOKEN_PATH")


class HubServer:
    """The server's state and life cycle.

    Attributes:
        cut_off: Beginning of "METHOD /path" -> how many such requests find the line cut in the middle of their body.
        endpoint: "http://127.0.0.1:<port>", once started.
        user, token: The one account, and its access token.
        requests: "METHOD /path STATUS" of every answered request, in order.
        unknown_requests: "METHOD /path" of those that no endpoint matched.
        broken_requests: "METHOD /path" of those whose line was cut.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.user = "tester"
        self.token = "hf_" + secrets.token_hex(16)
        self.signature = secrets.token_hex(16)  # of the storage URLs, which carry no token
        self.requests: list[str] = []
        self.unknown_requests: list[str] = []
        self.broken_requests: list[str] = []
        self.cut_off: dict[str, float] = {}
        self.lock = threading.RLock()
        (folder / "blobs").mkdir(parents=True, exist_ok=True)

    def start(self) -> None:
        """Listen on a free port."""
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (Handler,), {"hub": self}))
        self.port = self._http.server_address[1]
        self.endpoint = f"http://127.0.0.1:{self.port}"
        self.storage = f"http://localhost:{self.port}"  # for the client another host, as the Hub's storage is
        threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def stop(self) -> None:
        """Stop listening; HTTP/1.0 keeps no connection open, so nothing answers afterwards. May be called twice."""
        self._http.shutdown()
        self._http.server_close()

    def environment(self, home: Path) -> dict[str, str]:
        """Environment variables that point a new process to this server, logged in, with its cache below `home`."""
        return {
            "HF_ENDPOINT": self.endpoint,
            "HF_HOME": str(home),
            "HF_TOKEN": self.token,
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "NO_PROXY": "127.0.0.1,localhost",
            "no_proxy": "127.0.0.1,localhost",
        }

    def blob(self, sha256: str) -> Path:
        """Where the bytes of this SHA-256 are, or will be."""
        return self.folder / "blobs" / sha256

    def load(self, repo_id: str) -> dict[str, Any] | None:
        """{"private", "branches", "tags", "commits": {sha: {"title", "parent", "files"}}}; None if there is none."""
        path = self.folder / "repos" / f"{repo_id}.json"
        return json.loads(path.read_text()) if path.is_file() else None

    def save(self, repo_id: str, repo: dict[str, Any]) -> None:
        """Write a repository's state."""
        path = self.folder / "repos" / f"{repo_id}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(repo))

    def add_file(self, content: bytes) -> dict[str, Any]:
        """Store a regular file; its entry in a commit's file map."""
        sha256 = hashlib.sha256(content).hexdigest()
        self.blob(sha256).write_bytes(content)
        return {"sha256": sha256, "size": len(content), "oid": git_oid(content), "lfs": False}

    def add_commit(self, repo: dict[str, Any], branch: str, title: str, files: dict[str, Any]) -> str:
        """Commit a full file map to a branch; the commit's id, 40 hex digits."""
        commit = {"title": title, "parent": repo["branches"].get(branch), "files": files}
        sha = hashlib.sha1(json.dumps(commit, sort_keys=True).encode()).hexdigest()
        repo["commits"][sha] = commit
        repo["branches"][branch] = sha
        return sha


class Handler(BaseHTTPRequestHandler):
    hub: HubServer

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing on the console."""

    def _dispatch(self) -> None:
        url = urlsplit(self.path)
        self.query = {key: values[0] for key, values in parse_qs(url.query).items()}
        if self._is_cut_off(f"{self.command} {url.path}"):
            return
        self.body = self._read_body()
        for method, pattern, writes, answer in ROUTES:
            if method == self.command.replace("HEAD", "GET") and (match := re.fullmatch(pattern, url.path)):
                try:
                    self._check_token(writes)
                    with self.hub.lock:
                        answer(self, **path_arguments(match.groupdict()))
                except HttpError as failure:
                    self._fail(failure)
                except (KeyError, TypeError, ValueError) as error:
                    self._fail(HttpError(400, f"malformed request: {error!r}"))
                return
        self.hub.unknown_requests.append(f"{self.command} {self.path}")
        self._fail(HttpError(404, "no such endpoint"))

    do_GET = do_HEAD = do_POST = do_PUT = _dispatch  # noqa: N815

    def _is_cut_off(self, request: str) -> bool:
        """Whether this request's line is to break: half of the body is read, then the connection is gone."""
        with self.hub.lock:
            begun = next(
                (begin for begin, left in self.hub.cut_off.items() if left > 0 and request.startswith(begin)), None
            )
            if begun is None:
                return False
            self.hub.cut_off[begun] -= 1
            self.hub.broken_requests.append(request)
        self.rfile.read(int(self.headers.get("Content-Length", 0)) // 2)
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)
        return True

    def _read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _check_token(self, writes: bool) -> None:
        given = self.headers.get("Authorization")
        self.logged_in = given == f"Bearer {self.hub.token}"
        if given is not None and not self.logged_in:
            raise HttpError(401, "Invalid credentials in Authorization header")
        if writes and not self.logged_in:
            raise HttpError(401, "Invalid username or password.")

    def send(self, status: int, body: bytes = b"", **headers: str | int) -> None:
        self.hub.requests.append(f"{self.command} {urlsplit(self.path).path} {status}")
        self.send_response(status)
        for name, value in {"Content-Length": len(body), **headers}.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def send_json(self, value: Any, status: int = 200, **headers: str) -> None:
        self.send(status, json.dumps(value).encode(), Content_Type="application/json", **headers)

    def _fail(self, failure: HttpError) -> None:
        headers = {"X-Error-Code": failure.code} if failure.code else {}
        self.send_json({"error": failure.message}, failure.status, X_Error_Message=failure.message, **headers)

    def send_bytes(self, content: bytes, **headers: str) -> None:
        """The whole content, or the range that is asked for."""
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if not asked:
            return self.send(200, content, Accept_Ranges="bytes", **headers)
        first, last = int(asked[1]), min(int(asked[2] or len(content)), len(content) - 1)
        if first > last:
            return self.send(416, Content_Range=f"bytes */{len(content)}")
        span = f"bytes {first}-{last}/{len(content)}"
        return self.send(206, content[first : last + 1], Content_Range=span, **headers)

    def repo(self, repo_id: str) -> dict[str, Any]:
        repo = self.hub.load(repo_id)
        if repo is None or (repo["private"] and not self.logged_in):
            raise HttpError(404 if self.logged_in else 401, "Repository not found", "RepoNotFound")
        return repo

    def commit(self, repo: dict[str, Any], revision: str) -> str:
        sha = repo["branches"].get(revision) or repo["tags"].get(revision) or revision
        if sha not in repo["commits"]:
            raise HttpError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return sha

    def branch_files(self, repo: dict[str, Any], revision: str) -> dict[str, Any]:
        """The file map that a commit to this branch starts from."""
        if revision not in repo["branches"]:
            raise HttpError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return dict(repo["commits"][repo["branches"][revision]]["files"])


def path_arguments(groups: dict[str, str | None]) -> dict[str, str]:
    """The parts of a request's path, as an endpoint takes them."""
    arguments = {name: unquote(value or "") for name, value in groups.items()}
    if arguments.pop("kind", "") == "datasets/":
        arguments["repo_id"] = "datasets/" + arguments["repo_id"]
    return arguments


@pytest.fixture
def hub_server(tmp_path: Path) -> Iterator[HubServer]:
    """A running, empty Hub to which this process and its children are logged in, with an empty cache.

    `huggingface_hub` reads its variables when it is imported. So they are set and its `constants` module, through
    which all of it looks them up, is executed again; only the endpoint of its one shared `HfApi` object was copied
    and is patched. Both are undone at the end. A request that no endpoint matched fails the test.
    """
    from huggingface_hub import close_session, constants, hf_api

    server = HubServer(tmp_path / "hub")
    server.start()
    try:
        with pytest.MonkeyPatch.context() as patch:
            for name in CLIENT_VARIABLES:
                patch.delenv(name, raising=False)
            for name, value in server.environment(tmp_path / "hf_home").items():
                patch.setenv(name, value)
            patch.setattr(hf_api.api, "endpoint", server.endpoint)
            importlib.reload(constants)
            close_session()  # it has read the proxies of the former environment
            yield server
    finally:
        importlib.reload(constants)
        close_session()
        server.stop()
    assert server.unknown_requests == []
