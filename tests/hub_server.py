"""The part of the Hugging Face Hub's HTTP interface that huggingface_hub calls for downloads and commits, on 127.0.0.1.

Large files go the LFS way (batch, upload), others inside the commit, as on the real Hub. Xet is not spoken.
"""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

WRITE_TOKEN = "hf_write"
"""The only token that may write, and read private repositories."""

LFS_SUFFIX = ".safetensors"


@dataclass
class Repository:
    private: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    """Files of each commit, oldest first."""


@dataclass
class HubServer:
    endpoint: str = ""
    repositories: dict[str, Repository] = field(default_factory=dict)
    uploads: dict[str, bytes] = field(default_factory=dict)
    """LFS objects by sha256."""
    log: list[str] = field(default_factory=list)
    """Method and path of every request."""
    announce: dict[str, Callable[[bytes], bytes]] = field(default_factory=dict)
    """Per file name: what the server takes the file for when it states its length."""
    deliver: dict[str, Callable[[bytes], bytes]] = field(default_factory=dict)
    """Per file name: what it really sends."""
    break_off_after: int | None = None
    """Number of bytes of the next body after which the connection breaks, once."""
    refuse_uploads: bool = False
    """Whether the storage behind the Hub answers uploads with an error."""

    def commit(self, repo_id: str, files: dict[str, bytes]) -> str:
        """Adds files to a repository and returns the commit."""
        repository = self.repositories.setdefault(repo_id, Repository())
        before = list(repository.commits.values())[-1] if repository.commits else {}
        after = before | files
        digest = hashlib.sha1(repr((len(repository.commits), sorted(after.items()))).encode()).hexdigest()
        repository.commits[digest] = after
        return digest


@contextmanager
def serve() -> Iterator[HubServer]:
    """Runs a server on a free port until the block ends."""
    hub = HubServer()

    class Handler(_Handler):
        server_hub = hub

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        hub.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
        # The default poll interval would add half a second to every test.
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield hub
        finally:
            server.shutdown()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_hub: HubServer

    def log_message(self, format: str, *args: object) -> None:
        self.server_hub.log.append(f"{self.command} {self.path}")

    def do_HEAD(self) -> None:
        self._resolve()

    def do_GET(self) -> None:
        if match := re.fullmatch(r"/api/models/([\w.-]+/[\w.-]+)(?:/(revision|tree)/([^/?]+))?(?:\?.*)?", self.path):
            self._describe(*match.groups())
        else:
            self._resolve()

    def do_POST(self) -> None:
        body = self._body()
        if self.path == "/api/validate-yaml":
            self._json({"errors": [], "warnings": []})
        elif self.headers.get("Authorization") != f"Bearer {WRITE_TOKEN}":
            self._error(401, None, "Invalid username or password.")
        elif self.path == "/api/repos/create":
            self._create(json.loads(body))
        elif match := re.fullmatch(r"/api/models/([\w.-]+/[\w.-]+)/preupload/main", self.path):
            self._preupload(json.loads(body))
        elif match := re.fullmatch(r"/([\w.-]+/[\w.-]+)\.git/info/lfs/objects/batch", self.path):
            self._lfs_batch(json.loads(body))
        elif match := re.fullmatch(r"/api/models/([\w.-]+/[\w.-]+)/commit/main", self.path):
            self._commit(match[1], [json.loads(line) for line in body.splitlines()])
        else:
            self._error(404, None, f"no such address: {self.path}")

    def do_PUT(self) -> None:
        body = self._body()
        oid = self.path.rsplit("/", 1)[1]
        if self.server_hub.refuse_uploads:
            self._error(403, None, "the upload link has expired")
            return
        if hashlib.sha256(body).hexdigest() != oid:
            self._error(400, None, "the bytes do not have this sha256")
            return
        self.server_hub.uploads[oid] = body
        self._send(200, b"")

    # ---- read

    def _resolve(self) -> None:
        match = re.fullmatch(r"/([\w.-]+/[\w.-]+)/resolve/([^/]+)/([^?]+)", unquote(self.path))
        found = self._files(match[1], match[2]) if match else self._error(404, None, f"no such address: {self.path}")
        if match is None or found is None:
            return
        commit, files = found
        if match[3] not in files:
            self._error(404, "EntryNotFound", "Entry not found", {"X-Repo-Commit": commit})
            return
        content, same = files[match[3]], bytes
        announced = self.server_hub.announce.get(match[3], same)(content)
        sent = announced if self.command == "HEAD" else self.server_hub.deliver.get(match[3], same)(content)
        headers = {
            "ETag": f'"{hashlib.sha256(content).hexdigest()}"',
            "X-Repo-Commit": commit,
            "Accept-Ranges": "bytes",
            "Content-Type": "application/octet-stream",
        }
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if wanted is None:
            self._send(200, sent, headers)
        else:
            start = int(wanted[1])
            headers["Content-Range"] = f"bytes {start}-{len(sent) - 1}/{len(sent)}"
            self._send(206, sent[start:], headers)

    def _describe(self, repo_id: str, what: str | None, revision: str | None) -> None:
        found = self._files(repo_id, revision or "main")
        if found is None:
            return
        commit, files = found
        if what == "tree":
            self._json([{"type": "file", "path": p, "size": len(c), "oid": _sha1(c)} for p, c in files.items()])
        else:
            self._json({"id": repo_id, "sha": commit, "siblings": [{"rfilename": path} for path in files]})

    def _files(self, repo_id: str, revision: str) -> tuple[str, dict[str, bytes]] | None:
        repository = self.server_hub.repositories.get(repo_id)
        may_read = repository is not None and (
            not repository.private or self.headers.get("Authorization") == f"Bearer {WRITE_TOKEN}"
        )
        if repository is None or not may_read:
            self._error(401, "RepoNotFound", "Repository not found")
            return None
        if revision == "main" and repository.commits:
            revision = list(repository.commits)[-1]
        if revision not in repository.commits:
            self._error(404, "RevisionNotFound", f"Invalid rev id: {revision}")
            return None
        return revision, repository.commits[revision]

    # ---- write

    def _create(self, request: dict) -> None:
        repo_id = f"{request['organization']}/{request['name']}"
        url = f"{self.server_hub.endpoint}/{repo_id}"
        if repo_id in self.server_hub.repositories:
            self._json({"error": "You already created this model repo", "url": url}, 409)
            return
        private = request.get("private") is True or request.get("visibility") == "private"
        self.server_hub.repositories[repo_id] = Repository(private=private)
        self._json({"url": url})

    def _preupload(self, request: dict) -> None:
        modes = [
            {
                "path": file["path"],
                "uploadMode": "lfs" if file["path"].endswith(LFS_SUFFIX) else "regular",
                "shouldIgnore": False,
            }
            for file in request["files"]
        ]
        self._json({"files": modes})

    def _lfs_batch(self, request: dict) -> None:
        objects = []
        for wanted in request["objects"]:
            answer = {"oid": wanted["oid"], "size": wanted["size"]}
            if wanted["oid"] not in self.server_hub.uploads:
                answer["actions"] = {"upload": {"href": f"{self.server_hub.endpoint}/lfs/{wanted['oid']}"}}
            objects.append(answer)
        self._json({"transfer": "basic", "objects": objects})

    def _commit(self, repo_id: str, operations: list[dict]) -> None:
        files = {}
        for operation in operations:
            value = operation["value"]
            if operation["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif operation["key"] == "lfsFile":
                files[value["path"]] = self.server_hub.uploads[value["oid"]]
        oid = self.server_hub.commit(repo_id, files)
        self._json({"commitOid": oid, "commitUrl": f"{self.server_hub.endpoint}/{repo_id}/commit/{oid}"})

    # ---- answers

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        chunks = []
        while length := int(self.rfile.readline(), 16):
            chunks.append(self.rfile.read(length))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def _json(self, answer: object, status: int = 200) -> None:
        self._send(status, json.dumps(answer).encode(), {"Content-Type": "application/json"})

    def _error(self, status: int, code: str | None, message: str, headers: dict[str, str] | None = None) -> None:
        named = {"X-Error-Code": code, "X-Error-Message": message} if code else {"X-Error-Message": message}
        self._send(status, json.dumps({"error": message}).encode(), named | (headers or {}))

    def _send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | (headers or {})).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        cut, self.server_hub.break_off_after = self.server_hub.break_off_after, None
        self.wfile.write(body if cut is None else body[:cut])
        if cut is not None:
            self.wfile.flush()
            self.close_connection = True


def _sha1(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()
