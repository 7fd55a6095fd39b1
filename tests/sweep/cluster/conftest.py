"""Three hosts on this machine, and what all tests of a cluster on them begin with."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.sweep.cluster.hosts import Hosts, check_hosts, lab_yaml
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
        found.write("laptop", "segsweep/deploy/lab.yaml", lab_yaml())
        yield found
    finally:
        found.stop()
