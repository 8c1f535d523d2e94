"""A Hugging Face Hub on this machine: the endpoints that uploads and downloads go through."""

import base64
import hashlib
import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

import yaml

TOKEN = "hf_only_for_this_server"


class Hub(ThreadingHTTPServer):
    """Repositories in memory, one revision each.

    Attributes:
        repos: files by name, by repository as in `user/name`.
        requests: method and path of everything that was asked.
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repos, self.requests = {}, []

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"

    def environment(self, home):
        """Variables under which a program takes this server for the Hub."""
        return {"HF_ENDPOINT": self.url, "HF_HOME": str(home), "HF_TOKEN": TOKEN}


@contextmanager
def hub():
    with Hub() as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def _oid(files):
    return hashlib.sha1(repr(sorted(files.items())).encode()).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        self.server.requests.append((self.command, self.path))

    def _send(self, status, body=b"", **headers):
        body = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = b"".join(self._chunks())
        parts = urlsplit(self.path).path.strip("/").split("/")
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._send(401, {"error": "who are you?"})
        elif parts == ["api", "repos", "create"]:
            wanted = json.loads(body)
            repo = f"{wanted['organization'] or 'me'}/{wanted['name']}"
            self.server.repos.setdefault(repo, {})
            self._send(200, {"url": f"{self.server.url}/{repo}", "name": repo})
        elif parts == ["api", "validate-yaml"]:
            metadata = yaml.safe_load(json.loads(body)["content"].split("---\n")[1])
            known = isinstance(metadata, dict) and "library_name" in metadata
            errors = [] if known else [{"message": "expected metadata with a library_name"}]
            self._send(200 if known else 400, {"errors": errors, "warnings": []})
        elif parts[4] == "preupload":
            files = [
                {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                for file in json.loads(body)["files"]
            ]
            self._send(200, {"files": files})
        elif parts[4] == "commit":
            self._commit("/".join(parts[2:4]), body)
        else:
            self._send(404, {"error": self.path})

    def _chunks(self):
        while size := int(self.rfile.readline(), 16):
            yield self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()

    def _commit(self, repo, body):
        files = self.server.repos[repo]
        for line in filter(None, body.splitlines()):
            entry = json.loads(line)
            if entry["key"] == "file":
                files[entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
        oid = _oid(files)
        self._send(200, {"commitUrl": f"{self.server.url}/{repo}/commit/{oid}", "commitOid": oid})

    def do_GET(self):
        parts = unquote(urlsplit(self.path).path).strip("/").split("/")
        api = parts[:2] == ["api", "models"]
        repo = "/".join(parts[2:4] if api else parts[:2])
        files = self.server.repos.get(repo)
        if files is None:
            self._send(404, {"error": "no such repository"}, X_Error_Code="RepoNotFound")
        elif api and parts[4:5] == ["tree"]:
            self._send(200, self._tree(files))
        elif api:
            siblings = [{"rfilename": name} for name in files]
            self._send(200, {"id": repo, "sha": _oid(files), "siblings": siblings})
        elif "/".join(parts[4:]) in files:
            content = files["/".join(parts[4:])]
            etag = f'"{hashlib.sha1(content).hexdigest()}"'
            self._send(200, content, ETag=etag, X_Repo_Commit=_oid(files))
        else:
            self._send(404, {"error": "no such file"}, X_Error_Code="EntryNotFound")

    do_HEAD = do_GET  # noqa: N815 (as http.server calls it)

    @staticmethod
    def _tree(files):
        return [
            {
                "type": "file",
                "path": name,
                "size": len(content),
                "oid": hashlib.sha1(content).hexdigest(),
            }
            for name, content in files.items()
        ]
