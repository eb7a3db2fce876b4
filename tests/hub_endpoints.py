"""The Hub's endpoints that `huggingface_hub` calls for repositories; each answers one request of `hub_server`.

The id of a dataset repository begins with `datasets/` here, as its path on the Hub's pages and in its files' URLs does.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import yaml

if TYPE_CHECKING:
    from hub_server import Handler

LFS_SUFFIXES = (
    ".safetensors",
    ".arrow",
    ".bin",
    ".pt",
    ".pkl",
)  # the Hub decides by .gitattributes; these are its defaults


def git_oid(content: bytes) -> str:
    """Git's id of a blob."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def lfs_entry(sha256: str, size: int) -> dict[str, Any]:
    """A large file's entry in a commit's file map; Git itself knows only the pointer."""
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n".encode()
    return {"sha256": sha256, "size": size, "oid": git_oid(pointer), "lfs": True, "pointer_size": len(pointer)}


class HttpError(Exception):
    """An error answer: status, message, and the Hub's error code if it has one."""

    def __init__(self, status: int, message: str, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.code = status, message, code


def whoami(request: Handler) -> None:
    request.send_json({"type": "user", "name": request.hub.user, "orgs": [], "auth": {"type": "access_token"}})


def create_repo(request: Handler) -> None:
    hub, asked = request.hub, json.loads(request.body)
    if asked.get("type", "model") not in ("model", "dataset"):
        raise HttpError(400, "only model and dataset repositories here")
    owner = asked.get("organization") or hub.user
    if owner != hub.user:
        raise HttpError(403, f"You don't have the rights to create a repository under the namespace {owner!r}")
    repo_id = "datasets/" * (asked.get("type") == "dataset") + f"{owner}/{asked['name']}"
    answer = {"url": f"{hub.endpoint}/{repo_id}", "name": repo_id.removeprefix("datasets/")}
    if hub.load(repo_id) is not None:
        return request.send_json({**answer, "error": "You already created this repo"}, 409)
    private = asked.get("visibility") == "private" or bool(asked.get("private"))
    repo: dict[str, Any] = {"private": private, "branches": {}, "tags": {}, "commits": {}}
    attributes = "".join(f"*{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in LFS_SUFFIXES)
    hub.add_commit(repo, "main", "initial commit", {".gitattributes": hub.add_file(attributes.encode())})
    hub.save(repo_id, repo)
    return request.send_json(answer)


def validate_yaml(request: Handler) -> None:
    """The metadata of a card has to be a YAML mapping between two `---` lines."""
    content = json.loads(request.body)["content"]
    header = re.match(r"---\r?\n(.*?)\r?\n---", content, re.DOTALL)
    try:
        errors = [] if not header or isinstance(yaml.safe_load(header[1]), dict | None) else ["expected a mapping"]
    except yaml.YAMLError as error:
        errors = [str(error)]
    answer = {"errors": [{"message": message} for message in errors], "warnings": []}
    request.send_json(answer, 400 if errors else 200)


def preupload(request: Handler, repo_id: str, revision: str) -> None:
    files = request.branch_files(request.repo(repo_id), revision)
    answers = []
    for asked in json.loads(request.body)["files"]:
        base64.b64decode(asked["sample"], validate=True)
        present = files.get(asked["path"])
        mode = "lfs" if asked["path"].endswith(LFS_SUFFIXES) else "regular"
        oid = present and (present["sha256"] if present["lfs"] else present["oid"])
        answers.append({"path": asked["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid})
    request.send_json({"files": answers})


def lfs_batch(request: Handler, repo_id: str) -> None:
    """Where to send each large object; no action for one that is already here."""
    hub, asked = request.hub, json.loads(request.body)
    request.repo(repo_id)
    if asked["operation"] != "upload" or asked["hash_algo"] != "sha256" or "basic" not in asked["transfers"]:
        raise HttpError(400, "expected a basic upload of sha256 objects")
    objects = []
    for item in asked["objects"]:
        answer = {"oid": item["oid"], "size": item["size"]}
        if not hub.blob(item["oid"]).is_file():
            upload = f"{hub.storage}/storage/{item['oid']}?signature={hub.signature}"
            verify = f"{hub.endpoint}/{repo_id}.git/info/lfs/verify"
            answer |= {"authenticated": True, "actions": {"upload": {"href": upload}, "verify": {"href": verify}}}
        objects.append(answer)
    request.send_json({"transfer": "basic", "objects": objects})


def check_signature(request: Handler) -> None:
    """Storage knows signed URLs only; a client that sends it the Hub's token leaks it."""
    if "Authorization" in request.headers:
        raise HttpError(400, "only one authentication is allowed, got a signed URL and a token")
    if request.query.get("signature") != request.hub.signature:
        raise HttpError(403, "the URL is not signed")


def storage_put(request: Handler, oid: str) -> None:
    check_signature(request)
    if hashlib.sha256(request.body).hexdigest() != oid:
        raise HttpError(400, "content and SHA-256 differ")
    request.hub.blob(oid).write_bytes(request.body)
    request.send(200)


def storage_get(request: Handler, oid: str) -> None:
    check_signature(request)
    if not request.hub.blob(oid).is_file():
        raise HttpError(404, "no such object")
    request.send_bytes(request.hub.blob(oid).read_bytes(), ETag=f'"{oid}"')


def lfs_verify(request: Handler, repo_id: str) -> None:
    request.repo(repo_id)
    asked = json.loads(request.body)
    path = request.hub.blob(asked["oid"])
    if not path.is_file() or path.stat().st_size != asked["size"]:
        raise HttpError(404, "object not found or of another size")
    request.send(200)


def commit(request: Handler, repo_id: str, revision: str) -> None:
    """A commit is one JSON object a line: a header, then one operation each."""
    hub, repo = request.hub, request.repo(repo_id)
    files = request.branch_files(repo, revision)
    header, *operations = [json.loads(line) for line in request.body.splitlines()]
    if header["key"] != "header" or not header["value"]["summary"]:
        raise HttpError(400, "expected a header with a summary first")
    if header["value"].get("parentCommit", repo["branches"][revision]) != repo["branches"][revision]:
        raise HttpError(412, "A commit has happened since. Please refresh and try again.")
    for operation in operations:
        value, path = operation["value"], operation["value"]["path"]
        match operation["key"]:
            case "file":
                if value["encoding"] != "base64" or path.endswith(LFS_SUFFIXES):
                    raise HttpError(400, f"{path}: expected base64, and large files by LFS")
                files[path] = hub.add_file(base64.b64decode(value["content"], validate=True))
            case "lfsFile":
                if value["algo"] != "sha256" or not hub.blob(value["oid"]).is_file():
                    raise HttpError(400, f"{path}: LFS object {value['oid']} was not uploaded")
                files[path] = lfs_entry(value["oid"], hub.blob(value["oid"]).stat().st_size)
            case "deletedFile":
                del files[path]
            case "deletedFolder":
                files = {name: entry for name, entry in files.items() if not name.startswith(path.rstrip("/") + "/")}
            case key:
                raise HttpError(400, f"unknown operation {key}")
    sha = hub.add_commit(repo, revision, header["value"]["summary"], files)
    hub.save(repo_id, repo)
    request.send_json({"success": True, "commitOid": sha, "commitUrl": f"{hub.endpoint}/{repo_id}/commit/{sha}"})


def repo_info(request: Handler, repo_id: str, revision: str = "main") -> None:
    repo = request.repo(repo_id)
    sha = request.commit(repo, revision)
    siblings = [{"rfilename": path} for path in repo["commits"][sha]["files"]]
    name = repo_id.removeprefix("datasets/")
    answer = {"id": name, "author": name.split("/")[0], "private": repo["private"]}
    answer |= {} if repo_id.startswith("datasets/") else {"modelId": name}
    request.send_json({**answer, "sha": sha, "tags": [], "downloads": 0, "likes": 0, "siblings": siblings})


def tree(request: Handler, repo_id: str, revision: str, folder: str) -> None:
    """Files and folders below `folder`, one level or all; on one page."""
    repo = request.repo(repo_id)
    files = repo["commits"][request.commit(repo, revision)]["files"]
    prefix = f"{folder}/" if folder else ""
    entries: dict[str, dict[str, Any]] = {}
    for path, entry in files.items():
        if not path.startswith(prefix):
            continue
        parts = path.removeprefix(prefix).split("/")
        for depth in range(1, len(parts)):
            name = prefix + "/".join(parts[:depth])
            entries[name] = {"type": "directory", "path": name, "size": 0, "oid": git_oid(name.encode())}
        entries[path] = {"type": "file", "path": path, "size": entry["size"], "oid": entry["oid"]}
        if entry["lfs"]:
            pointer_size = entry["pointer_size"]
            entries[path]["lfs"] = {"oid": entry["sha256"], "size": entry["size"], "pointerSize": pointer_size}
    if request.query.get("recursive", "").lower() not in ("1", "true"):
        entries = {path: entry for path, entry in entries.items() if "/" not in path.removeprefix(prefix)}
    if not entries:
        raise HttpError(404, f"{folder} does not exist on {revision}", "EntryNotFound")
    request.send_json(list(entries.values()))


def refs(request: Handler, repo_id: str) -> None:
    repo = request.repo(repo_id)
    branches = [{"name": n, "ref": f"refs/heads/{n}", "targetCommit": sha} for n, sha in repo["branches"].items()]
    tags = [{"name": n, "ref": f"refs/tags/{n}", "targetCommit": sha} for n, sha in repo["tags"].items()]
    request.send_json({"branches": branches, "tags": tags, "converts": []})


def _add_ref(request: Handler, repo_id: str, kind: str, name: str, revision: str) -> None:
    repo = request.repo(repo_id)
    if name in repo[kind]:
        raise HttpError(409, f"{name} already exists")
    repo[kind][name] = request.commit(repo, revision)
    request.hub.save(repo_id, repo)
    request.send(200)


def create_branch(request: Handler, repo_id: str, branch: str) -> None:
    start = json.loads(request.body or b"{}").get("startingPoint", "main")
    _add_ref(request, repo_id, "branches", branch, start)


def create_tag(request: Handler, repo_id: str, revision: str) -> None:
    _add_ref(request, repo_id, "tags", json.loads(request.body)["tag"], revision)


def resolve(request: Handler, repo_id: str, revision: str, path: str) -> None:
    """A file: small ones at once, large ones by a redirect that carries their id and size."""
    repo = request.repo(repo_id)
    sha = request.commit(repo, revision)
    entry = repo["commits"][sha]["files"].get(path)
    if entry is None:
        raise HttpError(404, "Entry not found", "EntryNotFound")
    found = {"X-Repo-Commit": sha}
    if not entry["lfs"]:
        content = request.hub.blob(entry["sha256"]).read_bytes()
        return request.send_bytes(content, ETag=f'"{entry["oid"]}"', **found)
    linked = {"X-Linked-Etag": f'"{entry["sha256"]}"', "X-Linked-Size": str(entry["size"])}
    location = f"{request.hub.storage}/storage/{quote(entry['sha256'])}?signature={request.hub.signature}"
    return request.send(302, Location=location, ETag=f'"{entry["oid"]}"', **found, **linked)


_NAME = r"(?P<repo_id>[\w.-]+/[\w.-]+)"
_REPO = rf"(?P<kind>datasets/)?{_NAME}"
_API = rf"/api/(?P<kind>models/|datasets/){_NAME}"
_REVISION = r"(?P<revision>[^/]+)"
ROUTES = [  # method (GET answers HEAD too), path, whether the token is required, function
    ("GET", "/api/whoami-v2", True, whoami),
    ("POST", "/api/repos/create", True, create_repo),
    ("POST", "/api/validate-yaml", False, validate_yaml),
    ("POST", f"{_API}/preupload/{_REVISION}", True, preupload),
    ("POST", f"/{_REPO}.git/info/lfs/objects/batch", True, lfs_batch),
    ("PUT", r"/storage/(?P<oid>[0-9a-f]{64})", False, storage_put),
    ("GET", r"/storage/(?P<oid>[0-9a-f]{64})", False, storage_get),
    ("POST", f"/{_REPO}.git/info/lfs/verify", True, lfs_verify),
    ("POST", f"{_API}/commit/{_REVISION}", True, commit),
    ("GET", _API, False, repo_info),
    ("GET", f"{_API}/revision/{_REVISION}", False, repo_info),
    ("GET", rf"{_API}/tree/{_REVISION}(?:/(?P<folder>.+))?", False, tree),
    ("GET", f"{_API}/refs", False, refs),
    ("POST", f"{_API}/branch/(?P<branch>[^/]+)", True, create_branch),
    ("POST", f"{_API}/tag/{_REVISION}", True, create_tag),
    ("GET", f"/{_REPO}/resolve/{_REVISION}/(?P<path>.+)", False, resolve),
]
