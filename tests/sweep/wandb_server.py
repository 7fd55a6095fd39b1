"""A server that speaks as much of W&B's protocol as its client needs; it keeps what it is sent.

Runs, their configuration and summary come by GraphQL. Rows of the history come by
``file_stream``, as lines with the number of the first: a chunk that is sent again replaces the
lines that it had sent before, so that the client may repeat what it got no answer to.
"""

from __future__ import annotations

import base64
import json
import re
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal
from urllib.parse import quote, unquote, urlsplit

KEY = "0123456789abcdef" * 2 + "01234567"
ENTITY = "lab"
Trouble = Literal["error", "silence", "revoked"]


class Run:
    """What the server holds of one run."""

    def __init__(self, entity: str, project: str, name: str) -> None:
        self.path = (entity, project, name)
        self.group = self.job_type = self.display_name = ""
        self.tags: list[str] = []
        self.raw_config = self.raw_summary = "{}"
        self.files: dict[str, list[str]] = {}
        self.uploads: dict[str, bytes] = {}
        self.exit_code: int | None = None
        self.upserts = 0

    def lines(self, file: str) -> list[str]:
        return self.files.get(file, [])

    @property
    def history(self) -> list[dict[str, Any]]:
        """Rows in the order of their lines, without W&B's own fields but ``_step``."""
        rows = [json.loads(line) for line in self.lines("wandb-history.jsonl")]
        return [
            {k: v for k, v in row.items() if k == "_step" or not k.startswith("_")} for row in rows
        ]

    @property
    def config(self) -> dict[str, Any]:
        return {
            k: v["value"] for k, v in json.loads(self.raw_config).items() if not k.startswith("_")
        }

    @property
    def summary(self) -> dict[str, Any]:
        lines = self.lines("wandb-summary.json") or [self.raw_summary]
        summary: dict[str, Any] = json.loads(lines[-1])
        return summary

    def stream(self, content: dict[str, Any]) -> None:
        """Take a request to ``file_stream``."""
        for name, chunk in content.get("files", {}).items():
            new, place = chunk["content"], chunk["offset"]
            kept = self.files.setdefault(name, [])
            if name == "wandb-summary.json":  # whole each time
                kept[:] = new[-1:]
                continue
            assert place <= len(kept), f"{name}: line {place} is sent, but only {len(kept)} came"
            kept[place : place + len(new)] = new
        if content.get("complete"):
            self.exit_code = content.get("exitcode")

    def bucket(self) -> dict[str, Any]:
        """Return the run as GraphQL describes it."""
        entity, project, name = self.path
        internal = json.loads(self.raw_config).get("_wandb", {}).get("value", {})
        counts = {n: len(self.lines(f"wandb-{n}.jsonl")) for n in ("history", "events")}
        return {
            "id": "/".join(self.path),
            "name": name,
            "displayName": self.display_name,
            "description": "",
            "config": self.raw_config,
            "sweepName": None,
            "tags": self.tags,
            "notes": None,
            "summaryMetrics": json.dumps(self.summary),
            "logLineCount": len(self.lines("output.log")),
            "historyLineCount": counts["history"],
            "eventsLineCount": counts["events"],
            "historyTail": json.dumps(self.lines("wandb-history.jsonl")[-1:]),
            "eventsTail": json.dumps(self.lines("wandb-events.jsonl")[-1:]),
            "wandbConfig": json.dumps({k: v for k, v in internal.items() if k == "t"}),
            "project": {"id": project, "name": project, "entity": {"id": entity, "name": entity}},
        }


class Artifact:
    """What the server holds of one version of an artifact."""

    def __init__(self, asked: dict[str, Any]) -> None:
        self.name, self.digest = asked["artifactCollectionName"], asked["digest"]
        self.run, self.type = asked.get("runName"), asked["artifactTypeName"]
        self.aliases = [alias["alias"] for alias in asked.get("aliases") or ()]
        self.files: dict[str, bytes] = {}
        self.manifest: dict[str, bytes] = {}
        self.committed = False


class WandbServer(ThreadingHTTPServer):
    """The server: an address of this machine, and the runs by their ids.

    Attributes
    ----------
    trouble : {"error", "silence", "revoked"} or None
        Answer everything with status 500, or nothing at all, or as if the key were a wrong one.
    """

    daemon_threads = True
    block_on_close = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.runs: dict[str, Run] = {}
        self.artifacts: list[Artifact] = []
        self.asked: Counter[str] = Counter()
        self.trouble: Trouble | None = None
        self.closing = threading.Event()
        self.wrong: list[str] = []
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    @property
    def environment(self) -> dict[str, str]:
        """Variables that make the client report here."""
        return {"WANDB_BASE_URL": self.url, "WANDB_API_KEY": KEY}

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of clients that are killed."""

    def graphql(self, query: str, variables: dict[str, Any]) -> dict[str, Any]:
        """Answer one operation; what is not known is an error, as at W&B."""
        named = re.search(r"(?:query|mutation)\s+(\w+)", query)
        name = named.group(1) if named else query.strip()[:40]
        self.asked[name] += 1
        answer = getattr(self, f"_{name}", None)
        if answer is None:
            self.wrong.append(f"unknown operation {name}")
            return {"errors": [{"message": f"unknown operation {name}"}]}
        return {"data": answer(variables)}

    def _Viewer(self, _: dict[str, Any]) -> dict[str, Any]:
        teams = {"edges": [{"node": {"name": ENTITY}}]}
        return {
            "viewer": {
                "id": "1",
                "entity": ENTITY,
                "username": "researcher",
                "email": "",
                "flags": "{}",
                "teams": teams,
            }
        }

    def _ServerFeaturesQuery(self, _: dict[str, Any]) -> dict[str, Any]:
        return {"serverInfo": {"features": []}}

    def _OrganizationCoreWeaveOrganizationID(self, _: dict[str, Any]) -> dict[str, Any]:
        return {"entity": {"organization": None}}

    def _RunResumeStatus(self, asked: dict[str, Any]) -> dict[str, Any]:
        run = self.runs.get(asked["name"])
        project = asked["project"]
        model = {"id": project, "name": project, "entity": {"id": ENTITY, "name": ENTITY}}
        return {"model": {**model, "bucket": run.bucket() if run else None}}

    def _UpsertBucket(self, asked: dict[str, Any]) -> dict[str, Any]:
        name = asked.get("name") or asked["id"].rsplit("/", 1)[-1]
        new = name not in self.runs
        if new:
            entity = asked.get("entity") or ENTITY
            self.runs[name] = Run(entity, asked.get("project") or "uncategorized", name)
        run = self.runs[name]
        run.upserts += 1
        for field, attribute in {
            "groupName": "group",
            "jobType": "job_type",
            "displayName": "display_name",
            "config": "raw_config",
            "tags": "tags",
            "summaryMetrics": "raw_summary",
        }.items():
            if asked.get(field) is not None:
                setattr(run, attribute, asked[field])
        return {"upsertBucket": {"bucket": run.bucket(), "inserted": new}}

    def _CreateRunFiles(self, asked: dict[str, Any]) -> dict[str, Any]:
        run = self.runs[asked["run"]]
        files = [
            {"name": name, "uploadUrl": self._place("run", run.path[2], name)}
            for name in asked["files"]
        ]
        return {
            "createRunFiles": {"runID": "/".join(run.path), "uploadHeaders": [], "files": files}
        }

    def _place(self, kind: str, owner: object, name: str) -> str:
        return f"{self.url}/storage/{kind}/{owner}/{quote(name)}"

    def store(self, path: str, body: bytes) -> None:
        """Take a file that was sent to an address of `_place`."""
        _, _, kind, owner, name = path.split("/", 4)
        if kind == "run":
            self.runs[owner].uploads[unquote(name)] = body
        else:
            getattr(self.artifacts[int(owner)], kind)[unquote(name)] = body

    def _XXHashDigestsEnabled(self, _: dict[str, Any]) -> dict[str, Any]:
        return {"entity": {"xxhashDigestsEnabled": False}}

    def _ArtifactType(self, asked: dict[str, Any]) -> dict[str, Any]:
        name = asked["name"].rsplit("/", 1)[-1].split(":")[0]
        types = [one.type for one in self.artifacts if one.name == name]
        return {"project": {"artifact": {"artifactType": {"name": types[0]}} if types else None}}

    def _CreateArtifact(self, asked: dict[str, Any]) -> dict[str, Any]:
        new = Artifact(asked["input"])
        same = [
            number
            for number, one in enumerate(self.artifacts)
            if (one.name, one.digest, one.committed) == (new.name, new.digest, True)
        ]
        if not same:
            self.artifacts.append(new)
        made = {
            "id": str((same or [len(self.artifacts) - 1])[0]),
            "state": "COMMITTED" if same else "PENDING",
            "artifactSequence": {"latestArtifact": None},
        }
        return {"createArtifact": {"artifact": made}}

    def _CreateArtifactManifest(self, asked: dict[str, Any]) -> dict[str, Any]:
        number = asked["artifactID"]
        url = self._place("manifest", number, asked["name"])
        file = {"id": f"file-{number}", "uploadUrl": url, "uploadHeaders": []}
        made = {"id": f"manifest-{number}", "file": file}
        return {"createArtifactManifest": {"artifactManifest": made}}

    def _CreateArtifactFiles(self, asked: dict[str, Any]) -> dict[str, Any]:
        edges: list[dict[str, Any]] = [
            {
                "node": {
                    "storagePath": f"{spec['artifactID']}/{spec['name']}",
                    "uploadUrl": self._place("files", spec["artifactID"], spec["name"]),
                    "uploadHeaders": [],
                    "uploadMultipartUrls": None,
                    "artifact": {"id": spec["artifactID"]},
                }
            }
            for spec in asked["input"]["artifactFiles"]
        ]
        return {"createArtifactFiles": {"files": {"edges": edges}}}

    def _CommitArtifact(self, asked: dict[str, Any]) -> dict[str, Any]:
        artifact = self.artifacts[int(asked["artifactID"])]
        artifact.committed = True
        made = {"id": asked["artifactID"], "digest": artifact.digest}
        return {"commitArtifact": {"artifact": made}}


class _Answer(BaseHTTPRequestHandler):
    server: WandbServer
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._take()

    def do_POST(self) -> None:
        self._take()

    def do_PUT(self) -> None:
        self._take()

    def _take(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        server, path = self.server, urlsplit(self.path).path
        if server.trouble == "silence":
            server.closing.wait()
            self.close_connection = True
            return
        if server.trouble == "error":
            self._send(500, b"{}")
            return
        if path.startswith("/storage/"):  # addresses that carry their own permission
            server.store(path, body)
            self._send(200, b"")
            return
        sent = base64.b64decode((self.headers.get("Authorization") or "Basic ").split()[-1])
        if sent != f"api:{KEY}".encode() or server.trouble == "revoked":
            self._send(401, b'{"errors": [{"message": "not this key"}]}')
            return
        with server.lock:
            status, answer = self._answer(path, json.loads(body or b"{}"))
        self._send(status, json.dumps(answer).encode())

    def _answer(self, path: str, content: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        server = self.server
        try:
            if path == "/graphql":
                return 200, server.graphql(content["query"], content.get("variables") or {})
            if stream := re.fullmatch(r"/files/([^/]+)/([^/]+)/([^/]+)/file_stream", path):
                server.asked["file_stream"] += 1
                server.runs[stream.group(3)].stream(content)
                return 200, {}
        except (AssertionError, KeyError, ValueError) as error:
            server.wrong.append(f"{path}: {error!r}")
            return 400, {"errors": [{"message": str(error)}]}
        server.wrong.append(f"unknown address {path}")
        return 404, {}

    def _send(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


@contextmanager
def wandb_server() -> Iterator[WandbServer]:
    """Serve until the block ends."""
    server = WandbServer()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.closing.set()
        server.shutdown()
        server.server_close()
        thread.join()
