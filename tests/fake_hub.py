"""A hub on this machine: what huggingface_hub asks to find a repository and to download a file."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

INFO = re.compile(r"/api/models/(?P<repository>[^/]+/[^/]+)(/revision/(?P<revision>[^/]+))?")
FILE = re.compile(r"/(?P<repository>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<file>.+)")


@dataclass
class FakeHub:
    """Repositories with their commits.

    Attributes:
        address: where it listens.
        commits: files by repository and commit.
        refs: commits by repository and branch or tag.
        asked: what it was asked, in order, such as "GET /api/models/owner/name".
    """

    address: str = ""
    commits: dict[tuple[str, str], dict[str, bytes]] = field(default_factory=dict)
    refs: dict[tuple[str, str], str] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    def commit(self, repository: str, files: dict[str, bytes], branch: str = "main") -> str:
        """Put files into a repository, whose branch is then that commit."""
        content = repr(sorted(files.items())).encode()
        commit = hashlib.sha1(content).hexdigest()
        self.commits[repository, commit] = files
        self.refs[repository, branch] = commit
        return commit

    def _answer(self, path: str) -> tuple[int, dict[str, str], bytes]:
        known = {repository for repository, _ in self.commits}
        match = INFO.fullmatch(path) or FILE.fullmatch(path)
        if match is None or match["repository"] not in known:
            return 404, {"X-Error-Code": "RepoNotFound"}, b""
        repository, revision = match["repository"], unquote(match["revision"] or "main")
        commit = self.refs.get((repository, revision), revision)
        files = self.commits.get((repository, commit))
        if files is None:
            return 404, {"X-Error-Code": "RevisionNotFound"}, b""
        if "file" not in match.groupdict():
            siblings = [{"rfilename": name} for name in files]
            found = {"id": repository, "sha": commit, "siblings": siblings}
            return 200, {"Content-Type": "application/json"}, json.dumps(found).encode()
        content = files.get(unquote(match["file"]))
        if content is None:
            return 404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit}, b""
        etag = hashlib.sha256(content).hexdigest()
        return 200, {"ETag": f'"{etag}"', "X-Repo-Commit": commit}, content


@contextmanager
def fake_hub() -> Iterator[FakeHub]:
    """An empty hub that listens while inside."""
    hub = FakeHub()

    class Handler(BaseHTTPRequestHandler):
        def _send(self) -> None:
            path = self.path.partition("?")[0]
            hub.asked.append(f"{self.command} {path}")
            status, headers, content = hub._answer(path)
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(content))}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)

        do_GET = do_HEAD = _send

        def log_message(self, *arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        hub.address = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield hub
        finally:
            server.shutdown()
            thread.join()
