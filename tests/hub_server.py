"""A Hub on this machine: enough of its protocol for the unmodified `huggingface_hub`, `transformers` and `datasets`.

    with HubServer() as hub:                # http://127.0.0.1:PORT; clients read HF_ENDPOINT when they are imported
        hub.fail("POST .*/commit/", status=503, times=2)
        …
        assert hub.repo("me/model").files()["config.json"] == b"{}"

Repositories of models and datasets with commits, branches and tags, git's hashes for regular files and LFS for the
others, which are served from another origin, as the Hub's are. Two users: TOKEN may write below `me/`, READ_TOKEN only
read. Faults answer with a status, cut a connection in the middle of a body, or alter a file on its way.
"""

import base64
import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import parse_qs, unquote, urlsplit

OWNER = "me"
TOKEN = "hf_" + "w" * 34
READ_TOKEN = "hf_" + "r" * 34
LFS_SUFFIXES = (".safetensors", ".npy", ".parquet", ".model", ".bin")
LFS_SIZE = 1_000_000  # larger files are LFS files whatever their name


@dataclass(frozen=True)
class File:
    """A file of a commit. `content` is what is served, `sha1` and `sha256` are what the server says about it."""

    content: bytes
    lfs: bool

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @property
    def sha1(self) -> str:
        """Git's hash: of an LFS file, of its pointer."""
        content = self.content
        if self.lfs:
            oid, size = self.sha256, len(self.content)
            content = f"version https://git-lfs.github.com/spec/v1\noid sha256:{oid}\nsize {size}\n".encode()
        return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()

    def entry(self, path: str) -> dict[str, Any]:
        """As the tree and paths-info routes describe it."""
        entry: dict[str, Any] = {"type": "file", "path": path, "size": len(self.content), "oid": self.sha1}
        if self.lfs:
            entry["lfs"] = {"oid": self.sha256, "size": len(self.content), "pointerSize": 130}
        return entry


@dataclass
class Repo:
    """A repository: commits by hash, and what branches and tags point at."""

    kind: str  # models or datasets
    name: str
    private: bool
    commits: dict[str, dict[str, File]] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    def commit(self, files: dict[str, File], message: str, branch: str = "main") -> str:
        """Add a commit on a branch; its hash depends on everything before it."""
        listing = "".join(f"{path} {file.sha1}\n" for path, file in sorted(files.items()))
        content = f"{self.kind}/{self.name} {len(self.commits)} {message}\n{listing}"
        oid = hashlib.sha1(content.encode()).hexdigest()
        self.commits[oid] = files
        self.messages.append(message)
        self.branches[branch] = oid
        return oid

    def find(self, revision: str) -> str | None:
        """The commit that a branch, a tag or a hash names."""
        revision = revision.removeprefix("refs/heads/").removeprefix("refs/tags/")
        found = self.branches.get(revision) or self.tags.get(revision)
        return found or (revision if revision in self.commits else None)

    def files(self, revision: str = "main") -> dict[str, bytes]:
        """Contents by path."""
        return {path: file.content for path, file in sorted(self.commits[self.find(revision)].items())}


@dataclass
class Fault:
    """What happens to the next `times` requests whose `METHOD /path` matches."""

    pattern: str
    times: int
    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    message: str = "injected"
    cut: bool = False
    alter: bool = False


class HubServer:
    """The server and its state; `requests` lists what was asked (`METHOD /path`), `authorized` with which token."""

    def __init__(self) -> None:
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        self._server.daemon_threads = True
        self._server.hub = self
        self.port = self._server.server_address[1]
        self.endpoint = f"http://127.0.0.1:{self.port}"
        self.storage = f"http://localhost:{self.port}"  # another origin, where no token may be sent
        self.lock = threading.RLock()
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        self.repos: dict[tuple[str, str], Repo] = {}
        self.objects: dict[str, bytes] = {}
        self.faults: list[Fault] = []
        self.requests: list[str] = []
        self.authorized: list[tuple[str, str | None]] = []

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def repo(self, name: str, kind: str = "models") -> Repo:
        """An existing repository."""
        return self.repos[kind, name]

    def add(self, name: str, files: dict[str, bytes], kind: str = "models", private: bool = False) -> Repo:
        """Put a repository there, as if somebody had pushed it; for an existing one, a commit of just these files."""
        repo = self.repos.setdefault((kind, name), Repo(kind, name, private))
        repo.commit({path: File(content, is_lfs(path, len(content))) for path, content in files.items()}, "by hand")
        return repo

    def fail(self, pattern: str, *, times: int = 1, **what: Any) -> None:
        """Inject a fault: `status=503` (with `headers`, `message`), `cut=True` or `alter=True`."""
        self.faults.append(Fault(pattern, times, **what))

    def fault_for(self, request: str) -> Fault | None:
        """The first fault that is left for a request; it is used up once."""
        with self.lock:
            for fault in self.faults:
                if fault.times > 0 and re.search(fault.pattern, request):
                    fault.times -= 1
                    return fault
        return None


def is_lfs(path: str, size: int) -> bool:
    """Whether the Hub would keep a file in LFS."""
    return path.endswith(LFS_SUFFIXES) or size > LFS_SIZE


class _Refused(Exception):  # noqa: N818 (an answer, not an error)
    def __init__(self, status: int, message: str, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.code = status, message, code


_REPO = r"/api/(?P<kind>models|datasets)/(?P<name>[^/]+/[^/]+)"
_ROUTES = [
    ("GET", r"/api/whoami-v2", "whoami"),
    ("POST", r"/api/repos/create", "create"),
    ("POST", r"/api/validate-yaml", "validate_yaml"),
    ("POST", _REPO + r"/preupload/(?P<revision>[^/]+)", "preupload"),
    ("POST", _REPO + r"/commit/(?P<revision>[^/]+)", "commit"),
    ("POST", _REPO + r"/paths-info/(?P<revision>[^/]+)", "paths_info"),
    ("GET", _REPO + r"/tree/(?P<revision>[^/]+)(?:/(?P<path>.*))?", "tree"),
    ("GET", _REPO + r"/refs", "refs"),
    ("POST", _REPO + r"/(?P<what>tag|branch)/(?P<revision>[^/]+)", "add_ref"),
    ("DELETE", _REPO + r"/(?P<what>tag|branch)/(?P<revision>[^/]+)", "delete_ref"),
    ("GET", _REPO + r"(?:/revision/(?P<revision>[^/]+))?", "info"),
    ("POST", r"/(?P<kind>datasets/)?(?P<name>[^/]+/[^/]+)\.git/info/lfs/objects/batch", "lfs_batch"),
    ("PUT", r"/storage/(?P<oid>[0-9a-f]{64})", "lfs_put"),
    ("POST", r"/storage/(?P<oid>[0-9a-f]{64})/verify", "lfs_verify"),
    ("GET", r"/storage/(?P<oid>[0-9a-f]{64})", "storage"),
    (
        "GET",
        r"/(?P<kind>datasets/)?(?P<name>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<path>.+)",
        "resolve",
    ),
]


class _Handler(BaseHTTPRequestHandler):
    """One request. A route's method returns a JSON value, or answers by itself and returns None."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1  # headers and body in one packet: two would wait for each other
    disable_nagle_algorithm = True
    server: Any

    def log_message(self, *_: Any) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        """Find the route; HEAD is GET without a body."""
        self.hub: HubServer = self.server.hub
        path = urlsplit(self.path).path
        request = f"{self.command} {unquote(path)}"
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        authorization = self.headers.get("Authorization")
        self.token = authorization.removeprefix("Bearer ") if authorization else None
        with self.hub.lock:
            self.hub.requests.append(request)
            self.hub.authorized.append((request, self.token))
        self.fault = self.hub.fault_for(request)
        try:
            if self.fault is not None and self.fault.status is not None:
                raise _Refused(self.fault.status, self.fault.message)
            if self.token not in (None, TOKEN, READ_TOKEN):
                raise _Refused(401, "Invalid credentials in Authorization header")
            method = "GET" if self.command == "HEAD" else self.command
            for verb, pattern, name in _ROUTES:
                match = re.fullmatch(pattern, path)
                if verb == method and match:
                    parts = {key: unquote(value) for key, value in match.groupdict().items() if value}
                    with self.hub.lock:
                        answer = getattr(self, f"_{name}")(body, **parts)
                    break
            else:
                raise _Refused(404, "no such route")
        except _Refused as refused:
            headers = {"X-Error-Message": refused.message, **(self.fault.headers if self.fault else {})}
            if refused.code:
                headers["X-Error-Code"] = refused.code
            self._send(refused.status, json.dumps({"error": refused.message}).encode(), headers)
            return
        if answer is not None:
            self._send(200, json.dumps(answer).encode(), {"Content-Type": "application/json"})

    do_HEAD = do_POST = do_PUT = do_DELETE = do_GET

    def _send(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        """Answer, with what a fault does to the body."""
        fault, has_body = self.fault, self.command != "HEAD"
        if fault is not None and fault.alter and has_body:
            content = bytes([content[0] ^ 1]) + content[1:]
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(content))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        if fault is not None and fault.cut:
            self.wfile.write(content[: len(content) // 2])
            self.close_connection = True
        elif has_body:
            self.wfile.write(content)

    def _open(self, kind: str, name: str, *, write: bool = False) -> Repo:
        """The repository, if it is there and this user may use it; a private one is not there for strangers."""
        repo = self.hub.repos.get((kind.rstrip("/"), name))
        if repo is None or (repo.private and self.token is None):
            raise _Refused(404 if self.token else 401, "Repository not found", "RepoNotFound")
        if write:
            self._writable(name)
        return repo

    def _writable(self, name: str) -> None:
        if self.token is None:
            raise _Refused(401, "Invalid username or password.")
        if self.token != TOKEN or not name.startswith(f"{OWNER}/"):
            raise _Refused(403, f"you don't have the rights to write to {name}")

    def _tree_at(self, repo: Repo, revision: str) -> tuple[str, dict[str, File]]:
        oid = repo.find(revision)
        if oid is None:
            raise _Refused(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return oid, repo.commits[oid]

    def _whoami(self, body: bytes) -> Any:
        if self.token is None:
            raise _Refused(401, "Invalid username or password.")
        role = "write" if self.token == TOKEN else "read"
        return {"type": "user", "name": OWNER, "auth": {"accessToken": {"displayName": "t", "role": role}}, "orgs": []}

    def _create(self, body: bytes) -> Any:
        wanted = json.loads(body)
        name = f"{wanted.get('organization') or OWNER}/{wanted['name']}"
        self._writable(name)
        kind = f"{wanted.get('type') or 'model'}s"
        url = f"{self.hub.endpoint}/{'datasets/' if kind == 'datasets' else ''}{name}"
        if (kind, name) in self.hub.repos:
            answer = {"error": "You already created this repo", "url": url}
            self._send(409, json.dumps(answer).encode(), {"Content-Type": "application/json"})
            return None
        repo = Repo(kind, name, private=wanted.get("visibility") == "private" or bool(wanted.get("private")))
        repo.commit({".gitattributes": File(b"*.safetensors filter=lfs\n", lfs=False)}, "initial commit")
        self.hub.repos[kind, name] = repo
        return {"url": url, "name": name, "id": name}

    def _validate_yaml(self, body: bytes) -> Any:
        if not json.loads(body)["content"].startswith("---\n"):
            raise _Refused(400, "empty or missing yaml metadata in repo card")
        return {"errors": [], "warnings": []}

    def _preupload(self, body: bytes, kind: str, name: str, revision: str) -> Any:
        _, tree = self._tree_at(self._open(kind, name, write=True), revision)
        answers = []
        for wanted in json.loads(body)["files"]:
            lfs, known = is_lfs(wanted["path"], wanted["size"]), tree.get(wanted["path"])
            oid = None if known is None else known.sha256 if known.lfs else known.sha1
            mode = "lfs" if lfs else "regular"
            answers.append({"path": wanted["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        return {"files": answers}

    def _lfs_batch(self, body: bytes, name: str, kind: str = "models") -> Any:
        self._open(kind, name, write=True)
        objects = []
        for wanted in json.loads(body)["objects"]:
            href = f"{self.hub.storage}/storage/{wanted['oid']}"
            if wanted["oid"] not in self.hub.objects:
                verify = f"{self.hub.endpoint}/storage/{wanted['oid']}/verify"
                wanted["actions"] = {"upload": {"href": f"{href}?signature=secret"}, "verify": {"href": verify}}
            objects.append(wanted)
        return {"transfer": "basic", "objects": objects}

    def _lfs_put(self, body: bytes, oid: str) -> Any:
        """Storage checks the hash of what arrives, as the Hub's does."""
        if hashlib.sha256(body).hexdigest() != oid:
            raise _Refused(400, "the content does not match its checksum")
        self.hub.objects[oid] = body
        return {}

    def _lfs_verify(self, body: bytes, oid: str) -> Any:
        if len(self.hub.objects.get(oid, b"")) != json.loads(body)["size"]:
            raise _Refused(404, "no such object")
        return {}

    def _commit(self, body: bytes, kind: str, name: str, revision: str) -> Any:
        repo = self._open(kind, name, write=True)
        if revision not in repo.branches:
            raise _Refused(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        tree, message = dict(repo.commits[repo.branches[revision]]), ""
        for line in body.splitlines():
            item = json.loads(line)
            value = item["value"]
            if item["key"] == "header":
                message = value["summary"]
            elif item["key"] == "file":
                tree[value["path"]] = File(base64.b64decode(value["content"]), lfs=False)
            elif item["key"] == "lfsFile":
                tree[value["path"]] = File(self.hub.objects[value["oid"]], lfs=True)
            else:
                del tree[value["path"]]
        if self.fault is not None and self.fault.alter:  # the server keeps something else than what it was sent
            path = min(path for path in tree if path != ".gitattributes")
            tree[path] = File(tree[path].content + b"\n", tree[path].lfs)
            self.fault = None
        oid = repo.commit(tree, message, revision)
        return {"commitUrl": f"{self.hub.endpoint}/{name}/commit/{oid}", "commitOid": oid, "hookOutput": ""}

    def _info(self, body: bytes, kind: str, name: str, revision: str = "main") -> Any:
        repo = self._open(kind, name)
        oid, tree = self._tree_at(repo, revision)
        siblings = [{"rfilename": path} for path in sorted(tree)]
        common = {"id": name, "sha": oid, "private": repo.private, "gated": False, "disabled": False}
        return common | {"siblings": siblings, "tags": [], "downloads": 0, "likes": 0, "author": name.split("/")[0]}

    def _tree(self, body: bytes, kind: str, name: str, revision: str, path: str = "") -> Any:
        _, tree = self._tree_at(self._open(kind, name), revision)
        start = f"{path}/" if path else ""
        recursive = "true" in parse_qs(urlsplit(self.path).query).get("recursive", ["false"])[0].lower()
        below = {file: entry for file, entry in sorted(tree.items()) if file.startswith(start)}
        if path and not below:
            raise _Refused(404, f"{path} does not exist", "EntryNotFound")
        folders = {start + file[len(start) :].split("/")[0] for file in below if "/" in file[len(start) :]}
        files = [entry.entry(file) for file, entry in below.items() if recursive or "/" not in file[len(start) :]]
        return [{"type": "directory", "path": folder, "oid": "0" * 40, "size": 0} for folder in sorted(folders)] + files

    def _paths_info(self, body: bytes, kind: str, name: str, revision: str) -> Any:
        _, tree = self._tree_at(self._open(kind, name), revision)
        if self.headers.get("Content-Type", "").startswith("application/json"):
            paths = json.loads(body)["paths"]
        else:
            paths = parse_qs(body.decode())["paths"]
        answers = [tree[path].entry(path) for path in paths if path in tree]
        for path in paths:
            if path not in tree and any(file.startswith(f"{path}/") for file in tree):
                answers.append({"type": "directory", "path": path, "oid": "0" * 40, "size": 0})
        return answers

    def _refs(self, body: bytes, kind: str, name: str) -> Any:
        repo = self._open(kind, name)
        branches = [{"name": b, "ref": f"refs/heads/{b}", "targetCommit": oid} for b, oid in repo.branches.items()]
        tags = [{"name": t, "ref": f"refs/tags/{t}", "targetCommit": oid} for t, oid in repo.tags.items()]
        return {"branches": branches, "tags": tags, "converts": []}

    def _add_ref(self, body: bytes, kind: str, name: str, what: str, revision: str) -> Any:
        repo = self._open(kind, name, write=True)
        wanted = json.loads(body or b"{}")
        refs, ref = (repo.tags, wanted["tag"]) if what == "tag" else (repo.branches, revision)
        if ref in refs:
            raise _Refused(409, f"{what} {ref} exists already")
        refs[ref], _ = self._tree_at(repo, revision if what == "tag" else wanted.get("startingPoint") or "main")
        return {}

    def _delete_ref(self, body: bytes, kind: str, name: str, what: str, revision: str) -> Any:
        repo = self._open(kind, name, write=True)
        refs = repo.tags if what == "tag" else repo.branches
        if revision not in refs:
            raise _Refused(404, f"{what} {revision} does not exist", "RevisionNotFound")
        del refs[revision]
        return {}

    def _resolve(self, body: bytes, name: str, revision: str, path: str, kind: str = "models") -> Any:
        """A regular file itself; for an LFS file, a redirection to the storage with what is known of the file."""
        oid, tree = self._tree_at(self._open(kind, name), revision)
        if path not in tree:
            self.fault = Fault("", 0, headers={"X-Repo-Commit": oid})
            raise _Refused(404, "Entry not found", "EntryNotFound")
        file = tree[path]
        headers = {"X-Repo-Commit": oid, "Accept-Ranges": "bytes"}
        if not file.lfs:
            self._send_range(file.content, headers | {"ETag": f'"{file.sha1}"'})
            return
        self.hub.objects[file.sha256] = file.content
        linked = {"X-Linked-Etag": f'"{file.sha256}"', "X-Linked-Size": str(len(file.content))}
        location = f"{self.hub.storage}/storage/{file.sha256}?signature=secret"
        self._send(302, b"", headers | linked | {"Location": location})

    def _storage(self, body: bytes, oid: str) -> Any:
        if oid not in self.hub.objects:
            raise _Refused(404, "no such object")
        self._send_range(self.hub.objects[oid], {"ETag": f'"{oid}"', "Accept-Ranges": "bytes"})

    def _send_range(self, content: bytes, headers: dict[str, str]) -> None:
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if wanted is None:
            self._send(200, content, headers)
            return
        first, last = int(wanted[1]), min(int(wanted[2] or len(content) - 1), len(content) - 1)
        place = f"bytes {first}-{last}/{len(content)}"
        self._send(206, content[first : last + 1], headers | {"Content-Range": place})
