"""A real S3 server on this machine (moto's), for the tests beside this file."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import boto3
import pytest
from moto.server import ThreadedMotoServer

BUCKET = "lab"
_runs = count()
KEYS = {
    "AWS_ACCESS_KEY_ID": "key",
    "AWS_SECRET_ACCESS_KEY": "secret",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}


REQUESTS: list[str] = []
"""What the servers of this process were asked, one line each: ``GET /lab/runs/0/plan.json``."""


class _Requests(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        found = re.search(r"([A-Z]+ /\S*) HTTP", record.getMessage())
        if found is not None:
            REQUESTS.append(found.group(1))


def asked(pattern: str) -> list[str]:
    """Return the requests that match a regular expression."""
    return [request for request in REQUESTS if re.search(pattern, request)]


@contextmanager
def serving(port: int = 0) -> Iterator[str]:
    """Serve S3 on loopback while the block runs; yields the address.

    Servers of one process share their objects, as one that is started again does.
    """
    log = logging.getLogger("werkzeug")
    log.setLevel(logging.INFO)
    log.propagate = False
    if not any(isinstance(handler, _Requests) for handler in log.handlers):
        log.addHandler(_Requests())
    server = ThreadedMotoServer("127.0.0.1", port, verbose=False)
    server.start()
    host, chosen = server.get_host_and_port()
    try:
        yield f"http://{host}:{chosen}"
    finally:
        server.stop()


def store_environment(address: str, cache: Path) -> dict[str, str]:
    """Return what a process needs to use the server, as a node with a cache of its own."""
    return {**KEYS, "AWS_ENDPOINT_URL": address, "SEGSWEEP_CACHE": str(cache)}


def client(address: str) -> boto3.client:
    keys = {"aws_access_key_id": "key", "aws_secret_access_key": "secret"}
    return boto3.client("s3", endpoint_url=address, region_name="us-east-1", **keys)


def keys_of(address: str, prefix: str) -> list[str]:
    """Return the names of all objects below a prefix."""
    pages = client(address).get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix)
    return [one["Key"].removeprefix(prefix) for page in pages for one in page.get("Contents", ())]


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with serving() as address:
        client(address).create_bucket(Bucket=BUCKET)
        yield address


@pytest.fixture
def node(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Make this process a node with a cache of its own."""

    def become(name: str) -> None:
        for key, value in store_environment(server, tmp_path / name).items():
            monkeypatch.setenv(key, value)

    become("first")
    return become


@pytest.fixture
def out(node: Callable[[str], None]) -> str:
    """Address of a run folder that does not exist yet."""
    return f"s3://{BUCKET}/runs/{next(_runs)}"
