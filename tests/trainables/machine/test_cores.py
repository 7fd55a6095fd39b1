"""CPU cores under a container's quota, in a real control group where one may be made."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from trainables.machine.cores import CGROUPS, cpu_quota, usable_cpus

PINNED = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@pytest.fixture
def half_a_core() -> Iterator[Path]:
    """A control group with half a core; processes join it by writing to its cgroup.procs."""
    for mount in (CGROUPS / "cpu", CGROUPS):
        group = mount / f"segsweep-{uuid.uuid4().hex[:8]}"
        try:
            group.mkdir()
        except OSError:
            continue
        try:
            if (group / "cpu.max").exists():
                (group / "cpu.max").write_text("50000 100000")
            else:
                (group / "cpu.cfs_quota_us").write_text("50000")
            yield group
            return
        except OSError:
            continue
        finally:
            group.rmdir()
    pytest.skip("no control group may be made here")


CODE = """
import os, sys
with open(sys.argv[1] + "/cgroup.procs", "w") as handle:
    handle.write(str(os.getpid()))
from trainables.machine.cores import cpu_quota, keep_to_quota, usable_cpus
from sweep.resources import local_resources
keep_to_quota()
print(cpu_quota(), usable_cpus(), local_resources(0).cpus, os.environ["OMP_NUM_THREADS"])
"""


def test_a_process_in_a_control_group_keeps_to_its_quota(half_a_core: Path) -> None:
    environment = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"}
    done = subprocess.run(
        [sys.executable, "-c", CODE, str(half_a_core)],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.stdout.split() == ["0.5", "1", "1.0", "1"], done.stderr


def tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


@pytest.mark.parametrize(
    ("mine", "files", "expected"),
    [
        ("0::/", {"cpu.max": "150000 100000\n"}, 1.5),  # what Docker shows in a container
        ("0::/", {"cpu.max": "max 100000\n"}, None),
        ("0::/", {}, None),
        # a pod's limit lies above its container's
        ("0::/pod/a", {"pod/cpu.max": "200000 100000", "pod/a/cpu.max": "max 100000"}, 2.0),
        ("0::/pod/a", {"pod/cpu.max": "400000 100000", "pod/a/cpu.max": "50000 100000"}, 0.5),
        (
            "4:cpu,cpuacct:/docker/f00",  # seen from inside, where /docker/f00 is the root
            {"cpu,cpuacct/cpu.cfs_quota_us": "300000", "cpu,cpuacct/cpu.cfs_period_us": "100000"},
            3.0,
        ),
        ("1:cpu:/", {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        ("1:cpuset:/\n2:memory:/x", {"cpuset/cpu.cfs_quota_us": "1"}, None),
    ],
)
def test_quotas_of_both_versions(
    mine: str, files: dict[str, str], expected: float | None, tmp_path: Path
) -> None:
    (tmp_path / "mine").write_text(mine + "\n")
    groups = tree(tmp_path / "groups", files)
    assert cpu_quota(tmp_path / "mine", groups) == expected


def test_no_control_groups(tmp_path: Path) -> None:
    assert cpu_quota(tmp_path / "absent", tmp_path) is None


def test_never_more_than_the_cores_that_it_is_pinned_to() -> None:
    assert 1 <= usable_cpus() <= PINNED
