"""Three hosts on this machine, and what all tests of a cluster on them begin with."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.sweep.cluster.hosts import ROOT, Hosts, check_hosts
from trainables.synthetic.dataset import generate


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small data set, which the nodes see as /shared."""
    folder = tmp_path_factory.mktemp("shared")
    generate(folder / "data", sequences=9, frames=1, height=160, width=160, seed=1, cells=4)
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o777)
    return folder


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory, shared: Path) -> Iterator[Hosts]:
    """h1 and h2, machines of a lab, and a laptop with the project and deploy/lab.yaml."""
    check_hosts()
    found = Hosts(tmp_path_factory.mktemp("hosts"), shared)
    try:
        found.start()
        found.copy_project("laptop")
        text = (ROOT / "deploy" / "local.yaml").read_text()
        for before, after in (("192.0.2.1 ", "10.77.0.1 "), ("[192.0.2.2] ", "[10.77.0.2] ")):
            assert before in text
            text = text.replace(before, after)
        found.write("laptop", "segsweep/deploy/lab.yaml", text.encode())
        yield found
    finally:
        found.stop()
