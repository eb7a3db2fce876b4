"""A small Hugging Face Hub on 127.0.0.1, for tests of uploading and downloading models.

It speaks the endpoints that `huggingface_hub` calls for model repositories: whoami, repository creation, upload by
preupload, Git LFS and commit, model info, tree, refs, branches, tags, and resolve with the LFS redirect to another
host. It answers as the Hub does also where a request is wrong: 401 without a token, the `X-Error-Code` headers, 400
for a body that does not fit, and 404 for an endpoint it does not know, which is noted in `unknown_requests`.
Xet storage is not offered; the client's Xet upload has no way back to LFS, so it is switched off by its variable.

State lies in one folder: `blobs/<sha256>` and `repos/<owner>/<name>.json`, the refs and the full file map of every
commit.
"""

import base64
import hashlib
import importlib
import json
import re
import secrets
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

import pytest
import yaml

LFS_SUFFIXES = (".safetensors", ".bin", ".pt", ".pkl")  # the Hub decides by .gitattributes; these are its defaults
CLIENT_VARIABLES = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_TOKEN_PATH")


class HubServer:
    """The server's state and life cycle.

    Attributes:
        endpoint: "http://127.0.0.1:<port>", once started.
        user, token: The one account, and its access token.
        requests: "METHOD /path STATUS" of every answered request, in order.
        unknown_requests: "METHOD /path" of those that no endpoint matched.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.user = "tester"
        self.token = "hf_" + secrets.token_hex(16)
        self.signature = secrets.token_hex(16)  # of the storage URLs, which carry no token
        self.requests: list[str] = []
        self.unknown_requests: list[str] = []
        self.lock = threading.RLock()
        (folder / "blobs").mkdir(parents=True, exist_ok=True)

    def start(self) -> None:
        """Listen on a free port."""
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
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
        return {"sha256": sha256, "size": len(content), "oid": _git_oid(content), "lfs": False}

    def add_commit(self, repo: dict[str, Any], branch: str, title: str, files: dict[str, Any]) -> str:
        """Commit a full file map to a branch; the commit's id, 40 hex digits."""
        commit = {"title": title, "parent": repo["branches"].get(branch), "files": files}
        sha = hashlib.sha1(json.dumps(commit, sort_keys=True).encode()).hexdigest()
        repo["commits"][sha] = commit
        repo["branches"][branch] = sha
        return sha


def _git_oid(content: bytes) -> str:
    """Git's id of a blob."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _lfs_entry(sha256: str, size: int) -> dict[str, Any]:
    """A large file's entry in a commit's file map; Git itself knows only the pointer."""
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n".encode()
    return {"sha256": sha256, "size": size, "oid": _git_oid(pointer), "lfs": True, "pointer_size": len(pointer)}


class _HttpError(Exception):
    """An error answer: status, message, and the Hub's error code if it has one."""

    def __init__(self, status: int, message: str, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.code = status, message, code


class _Handler(BaseHTTPRequestHandler):
    hub: HubServer

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing on the console."""

    def _dispatch(self) -> None:
        url = urlsplit(self.path)
        self.query = {key: values[0] for key, values in parse_qs(url.query).items()}
        self.body = self._read_body()
        for method, pattern, writes, answer in ROUTES:
            if method == self.command.replace("HEAD", "GET") and (match := re.fullmatch(pattern, url.path)):
                try:
                    self._check_token(writes)
                    with self.hub.lock:
                        answer(self, **{key: unquote(value or "") for key, value in match.groupdict().items()})
                except _HttpError as failure:
                    self._fail(failure)
                except (KeyError, TypeError, ValueError) as error:
                    self._fail(_HttpError(400, f"malformed request: {error!r}"))
                return
        self.hub.unknown_requests.append(f"{self.command} {self.path}")
        self._fail(_HttpError(404, "no such endpoint"))

    do_GET = do_HEAD = do_POST = do_PUT = _dispatch  # noqa: N815

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
            raise _HttpError(401, "Invalid credentials in Authorization header")
        if writes and not self.logged_in:
            raise _HttpError(401, "Invalid username or password.")

    def _send(self, status: int, body: bytes = b"", **headers: str | int) -> None:
        self.hub.requests.append(f"{self.command} {urlsplit(self.path).path} {status}")
        self.send_response(status)
        for name, value in {"Content-Length": len(body), **headers}.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _send_json(self, value: Any, status: int = 200, **headers: str) -> None:
        self._send(status, json.dumps(value).encode(), Content_Type="application/json", **headers)

    def _fail(self, failure: _HttpError) -> None:
        headers = {"X-Error-Code": failure.code} if failure.code else {}
        self._send_json({"error": failure.message}, failure.status, X_Error_Message=failure.message, **headers)

    def _send_bytes(self, content: bytes, **headers: str) -> None:
        """The whole content, or the range that is asked for."""
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if not asked:
            return self._send(200, content, Accept_Ranges="bytes", **headers)
        first, last = int(asked[1]), min(int(asked[2] or len(content)), len(content) - 1)
        if first > last:
            return self._send(416, Content_Range=f"bytes */{len(content)}")
        span = f"bytes {first}-{last}/{len(content)}"
        return self._send(206, content[first : last + 1], Content_Range=span, **headers)

    def _repo(self, repo_id: str) -> dict[str, Any]:
        repo = self.hub.load(repo_id)
        if repo is None or (repo["private"] and not self.logged_in):
            raise _HttpError(404 if self.logged_in else 401, "Repository not found", "RepoNotFound")
        return repo

    def _commit(self, repo: dict[str, Any], revision: str) -> str:
        sha = repo["branches"].get(revision) or repo["tags"].get(revision) or revision
        if sha not in repo["commits"]:
            raise _HttpError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return sha

    def _branch_files(self, repo: dict[str, Any], revision: str) -> dict[str, Any]:
        """The file map that a commit to this branch starts from."""
        if revision not in repo["branches"]:
            raise _HttpError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return dict(repo["commits"][repo["branches"][revision]]["files"])


def whoami(request: _Handler) -> None:
    request._send_json({"type": "user", "name": request.hub.user, "orgs": [], "auth": {"type": "access_token"}})


def create_repo(request: _Handler) -> None:
    hub, asked = request.hub, json.loads(request.body)
    if asked.get("type", "model") != "model":
        raise _HttpError(400, "only model repositories here")
    repo_id = f"{asked.get('organization') or hub.user}/{asked['name']}"
    answer = {"url": f"{hub.endpoint}/{repo_id}", "name": repo_id}
    if hub.load(repo_id) is not None:
        return request._send_json({**answer, "error": "You already created this model repo"}, 409)
    private = asked.get("visibility") == "private" or bool(asked.get("private"))
    repo: dict[str, Any] = {"private": private, "branches": {}, "tags": {}, "commits": {}}
    attributes = "".join(f"*{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in LFS_SUFFIXES)
    hub.add_commit(repo, "main", "initial commit", {".gitattributes": hub.add_file(attributes.encode())})
    hub.save(repo_id, repo)
    return request._send_json(answer)


def validate_yaml(request: _Handler) -> None:
    """The metadata of a model card has to be a YAML mapping between two `---` lines."""
    content = json.loads(request.body)["content"]
    header = re.match(r"---\r?\n(.*?)\r?\n---", content, re.DOTALL)
    try:
        errors = [] if not header or isinstance(yaml.safe_load(header[1]), dict | None) else ["expected a mapping"]
    except yaml.YAMLError as error:
        errors = [str(error)]
    answer = {"errors": [{"message": message} for message in errors], "warnings": []}
    request._send_json(answer, 400 if errors else 200)


def preupload(request: _Handler, repo_id: str, revision: str) -> None:
    files = request._branch_files(request._repo(repo_id), revision)
    answers = []
    for asked in json.loads(request.body)["files"]:
        base64.b64decode(asked["sample"], validate=True)
        present = files.get(asked["path"])
        mode = "lfs" if asked["path"].endswith(LFS_SUFFIXES) else "regular"
        oid = present and (present["sha256"] if present["lfs"] else present["oid"])
        answers.append({"path": asked["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid})
    request._send_json({"files": answers})


def lfs_batch(request: _Handler, repo_id: str) -> None:
    """Where to send each large object; no action for one that is already here."""
    hub, asked = request.hub, json.loads(request.body)
    request._repo(repo_id)
    if asked["operation"] != "upload" or asked["hash_algo"] != "sha256" or "basic" not in asked["transfers"]:
        raise _HttpError(400, "expected a basic upload of sha256 objects")
    objects = []
    for item in asked["objects"]:
        answer = {"oid": item["oid"], "size": item["size"]}
        if not hub.blob(item["oid"]).is_file():
            upload = f"{hub.storage}/storage/{item['oid']}?signature={hub.signature}"
            verify = f"{hub.endpoint}/{repo_id}.git/info/lfs/verify"
            answer |= {"authenticated": True, "actions": {"upload": {"href": upload}, "verify": {"href": verify}}}
        objects.append(answer)
    request._send_json({"transfer": "basic", "objects": objects})


def check_signature(request: _Handler) -> None:
    """Storage knows signed URLs only; a client that sends it the Hub's token leaks it."""
    if "Authorization" in request.headers:
        raise _HttpError(400, "only one authentication is allowed, got a signed URL and a token")
    if request.query.get("signature") != request.hub.signature:
        raise _HttpError(403, "the URL is not signed")


def storage_put(request: _Handler, oid: str) -> None:
    check_signature(request)
    if hashlib.sha256(request.body).hexdigest() != oid:
        raise _HttpError(400, "content and SHA-256 differ")
    request.hub.blob(oid).write_bytes(request.body)
    request._send(200)


def storage_get(request: _Handler, oid: str) -> None:
    check_signature(request)
    if not request.hub.blob(oid).is_file():
        raise _HttpError(404, "no such object")
    request._send_bytes(request.hub.blob(oid).read_bytes(), ETag=f'"{oid}"')


def lfs_verify(request: _Handler, repo_id: str) -> None:
    request._repo(repo_id)
    asked = json.loads(request.body)
    path = request.hub.blob(asked["oid"])
    if not path.is_file() or path.stat().st_size != asked["size"]:
        raise _HttpError(404, "object not found or of another size")
    request._send(200)


def commit(request: _Handler, repo_id: str, revision: str) -> None:
    """A commit is one JSON object a line: a header, then one operation each."""
    hub, repo = request.hub, request._repo(repo_id)
    files = request._branch_files(repo, revision)
    header, *operations = [json.loads(line) for line in request.body.splitlines()]
    if header["key"] != "header" or not header["value"]["summary"]:
        raise _HttpError(400, "expected a header with a summary first")
    if header["value"].get("parentCommit", repo["branches"][revision]) != repo["branches"][revision]:
        raise _HttpError(412, "A commit has happened since. Please refresh and try again.")
    for operation in operations:
        value, path = operation["value"], operation["value"]["path"]
        match operation["key"]:
            case "file":
                if value["encoding"] != "base64" or path.endswith(LFS_SUFFIXES):
                    raise _HttpError(400, f"{path}: expected base64, and large files by LFS")
                files[path] = hub.add_file(base64.b64decode(value["content"], validate=True))
            case "lfsFile":
                if value["algo"] != "sha256" or not hub.blob(value["oid"]).is_file():
                    raise _HttpError(400, f"{path}: LFS object {value['oid']} was not uploaded")
                files[path] = _lfs_entry(value["oid"], hub.blob(value["oid"]).stat().st_size)
            case "deletedFile":
                del files[path]
            case "deletedFolder":
                files = {name: entry for name, entry in files.items() if not name.startswith(path.rstrip("/") + "/")}
            case key:
                raise _HttpError(400, f"unknown operation {key}")
    sha = hub.add_commit(repo, revision, header["value"]["summary"], files)
    hub.save(repo_id, repo)
    request._send_json({"success": True, "commitOid": sha, "commitUrl": f"{hub.endpoint}/{repo_id}/commit/{sha}"})


def model_info(request: _Handler, repo_id: str, revision: str = "main") -> None:
    repo = request._repo(repo_id)
    sha = request._commit(repo, revision)
    siblings = [{"rfilename": path} for path in repo["commits"][sha]["files"]]
    answer = {"id": repo_id, "modelId": repo_id, "author": repo_id.split("/")[0], "private": repo["private"]}
    request._send_json({**answer, "sha": sha, "tags": [], "downloads": 0, "likes": 0, "siblings": siblings})


def tree(request: _Handler, repo_id: str, revision: str, folder: str) -> None:
    """Files and folders below `folder`, one level or all; on one page."""
    repo = request._repo(repo_id)
    files = repo["commits"][request._commit(repo, revision)]["files"]
    prefix = f"{folder}/" if folder else ""
    entries: dict[str, dict[str, Any]] = {}
    for path, entry in files.items():
        if not path.startswith(prefix):
            continue
        parts = path.removeprefix(prefix).split("/")
        for depth in range(1, len(parts)):
            name = prefix + "/".join(parts[:depth])
            entries[name] = {"type": "directory", "path": name, "size": 0, "oid": _git_oid(name.encode())}
        entries[path] = {"type": "file", "path": path, "size": entry["size"], "oid": entry["oid"]}
        if entry["lfs"]:
            pointer_size = entry["pointer_size"]
            entries[path]["lfs"] = {"oid": entry["sha256"], "size": entry["size"], "pointerSize": pointer_size}
    if request.query.get("recursive", "").lower() not in ("1", "true"):
        entries = {path: entry for path, entry in entries.items() if "/" not in path.removeprefix(prefix)}
    if not entries:
        raise _HttpError(404, f"{folder} does not exist on {revision}", "EntryNotFound")
    request._send_json(list(entries.values()))


def refs(request: _Handler, repo_id: str) -> None:
    repo = request._repo(repo_id)
    branches = [{"name": n, "ref": f"refs/heads/{n}", "targetCommit": sha} for n, sha in repo["branches"].items()]
    tags = [{"name": n, "ref": f"refs/tags/{n}", "targetCommit": sha} for n, sha in repo["tags"].items()]
    request._send_json({"branches": branches, "tags": tags, "converts": []})


def _add_ref(request: _Handler, repo_id: str, kind: str, name: str, revision: str) -> None:
    repo = request._repo(repo_id)
    if name in repo[kind]:
        raise _HttpError(409, f"{name} already exists")
    repo[kind][name] = request._commit(repo, revision)
    request.hub.save(repo_id, repo)
    request._send(200)


def create_branch(request: _Handler, repo_id: str, branch: str) -> None:
    start = json.loads(request.body or b"{}").get("startingPoint", "main")
    _add_ref(request, repo_id, "branches", branch, start)


def create_tag(request: _Handler, repo_id: str, revision: str) -> None:
    _add_ref(request, repo_id, "tags", json.loads(request.body)["tag"], revision)


def resolve(request: _Handler, repo_id: str, revision: str, path: str) -> None:
    """A file: small ones at once, large ones by a redirect that carries their id and size."""
    repo = request._repo(repo_id)
    sha = request._commit(repo, revision)
    entry = repo["commits"][sha]["files"].get(path)
    if entry is None:
        raise _HttpError(404, "Entry not found", "EntryNotFound")
    found = {"X-Repo-Commit": sha}
    if not entry["lfs"]:
        content = request.hub.blob(entry["sha256"]).read_bytes()
        return request._send_bytes(content, ETag=f'"{entry["oid"]}"', **found)
    linked = {"X-Linked-Etag": f'"{entry["sha256"]}"', "X-Linked-Size": str(entry["size"])}
    location = f"{request.hub.storage}/storage/{quote(entry['sha256'])}?signature={request.hub.signature}"
    return request._send(302, Location=location, ETag=f'"{entry["oid"]}"', **found, **linked)


_REPO = r"(?P<repo_id>[\w.-]+/[\w.-]+)"
_MODEL = "/api/models/" + _REPO
_REVISION = r"(?P<revision>[^/]+)"
ROUTES = [  # method (GET answers HEAD too), path, whether the token is required, function
    ("GET", "/api/whoami-v2", True, whoami),
    ("POST", "/api/repos/create", True, create_repo),
    ("POST", "/api/validate-yaml", False, validate_yaml),
    ("POST", f"{_MODEL}/preupload/{_REVISION}", True, preupload),
    ("POST", f"/{_REPO}.git/info/lfs/objects/batch", True, lfs_batch),
    ("PUT", r"/storage/(?P<oid>[0-9a-f]{64})", False, storage_put),
    ("GET", r"/storage/(?P<oid>[0-9a-f]{64})", False, storage_get),
    ("POST", f"/{_REPO}.git/info/lfs/verify", True, lfs_verify),
    ("POST", f"{_MODEL}/commit/{_REVISION}", True, commit),
    ("GET", _MODEL, False, model_info),
    ("GET", f"{_MODEL}/revision/{_REVISION}", False, model_info),
    ("GET", rf"{_MODEL}/tree/{_REVISION}(?:/(?P<folder>.+))?", False, tree),
    ("GET", f"{_MODEL}/refs", False, refs),
    ("POST", f"{_MODEL}/branch/(?P<branch>[^/]+)", True, create_branch),
    ("POST", f"{_MODEL}/tag/{_REVISION}", True, create_tag),
    ("GET", f"/{_REPO}/resolve/{_REVISION}/(?P<path>.+)", False, resolve),
]


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
