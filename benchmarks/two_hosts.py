"""Trials per hour on two hosts against one, for the same work.

``python benchmarks/two_hosts.py`` (root; docs/testing.md) starts the cluster of deploy/local.yaml
on two hosts, namespaces of this machine with one core each, and runs the same eight trials on both
hosts and, after one was switched off, on the other one.
"""

from __future__ import annotations

import csv
import json
import signal
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from tests.sweep.cluster.hosts import Hosts, lab_yaml, lacking, up  # noqa: E402
from trainables.synthetic.dataset import generate  # noqa: E402

TRIALS = 8
SWEEP = (
    "python -m sweep.run demo --wandb off --data /shared/data --set crop_size=128 --set epochs=12 "
    f"--only architecture=Unet task=semantic2,semantic3 --seeds {TRIALS // 2}"
)


def trials_per_hour(hosts: Hosts, shared: Path, name: str) -> tuple[float, int]:
    """Run the sweep from h1; return how many trials an hour it ends, and on how many nodes."""
    done = hosts.run("h1", f"cd segsweep && {SWEEP} --out /shared/{name}", seconds=1500)
    if done.returncode != 0:
        raise SystemExit(done.stdout[-2000:] + done.stderr[-2000:])
    with open(shared / name / "leaderboard.csv", newline="") as handle:
        statuses = [row["status"] for row in csv.DictReader(handle)]
    if statuses != ["done"] * TRIALS:
        raise SystemExit(f"not all trials are done: {statuses}")
    records = [json.loads(path.read_text()) for path in (shared / name / "ledger").glob("*.json")]
    last = [record["attempts"][-1] for record in records]
    seconds = max(one["ended"] for one in last) - min(one["started"] for one in last)
    return 3600 * TRIALS / seconds, len({one["node"] for one in last})


def main() -> None:
    """Print trials per hour on two hosts and on one, and their ratio."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # the hosts end in any case
    if reason := lacking():
        raise SystemExit(f"hosts cannot be made: {reason}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        shared, base = folder / "shared", folder / "hosts"
        generate(shared / "data", sequences=9, frames=1, height=160, width=160, seed=1, cells=4)
        for path in (shared, *shared.rglob("*")):
            path.chmod(0o777)
        base.mkdir()
        hosts = Hosts(base, shared, own_core=True)
        try:
            hosts.start()
            hosts.copy_project("laptop")
            description = lab_yaml().decode().replace("ray start", "ray start --num-cpus=1")
            hosts.write("laptop", "segsweep/deploy/lab.yaml", description.encode())
            up(hosts)
            two = trials_per_hour(hosts, shared, "two")
            hosts.kill("h2")
            alone = "for k in $(seq 120); do ray status | grep -q '1 local.cluster.node' && break; "
            hosts.run("h1", alone + "sleep 1; done", seconds=300)
            one = trials_per_hour(hosts, shared, "one")
        finally:
            hosts.stop()
    for rate, nodes in (two, one):
        print(f"{TRIALS} trials on {nodes} host{'s' * (nodes > 1)}: {rate:.0f} an hour")
    print(f"ratio: {two[0] / one[0]:.2f}")


if __name__ == "__main__":
    main()
