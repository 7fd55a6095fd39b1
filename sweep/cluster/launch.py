"""Start and stop a cluster that a file describes.

``python -m sweep.cluster.launch up CLUSTER.yaml`` checks in seconds what Ray's launcher would find
out in minutes or never, then runs ``ray up``; ``down`` runs ``ray down`` and removes what that
leaves.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from sweep.request import RequestError
from trainables.cli import DONE, FAILED, Parser, run

PLACEHOLDERS = {
    "192.0.2.": "an address that nobody has; enter the addresses of your machines",
    "ami-00000000000000000": "no image; enter one, docs/cluster.md says how to find it",
    "fs-00000000": "no file system; enter the id of yours",
}
"""What the files that come with segsweep say in the place of what only the user knows."""
CONNECT_S = 8
PROBE = (
    "for t in python3 make gcc rsync; do command -v $t >/dev/null || echo $t is missing; done; "
    "python3 -c 'import sys; sys.version_info >= (3, 11) or print(\"Python is %d.%d, 3.11 or newer "
    "is needed\" % sys.version_info[:2])'; "
    "python3 -c 'import ensurepip' 2>/dev/null || echo the Python module venv is missing"
)
"""Prints what a machine lacks."""
LEFT = "~/ray_bootstrap_key.pem ~/ray_bootstrap_config.yaml ~/.segsweep/token"
"""Files that ``ray up`` writes on nodes: a private key, and the secrets of the cluster."""


class Cluster(NamedTuple):
    """A description of a cluster."""

    path: Path
    content: Mapping[str, Any]

    @property
    def owned(self) -> bool:
        """Whether its machines are there already, and Ray only starts on them."""
        return bool(self.content["provider"].get("type") == "local")

    @property
    def hosts(self) -> list[str]:
        """Addresses of the user's own machines, the head first."""
        provider = self.content["provider"]
        return [provider["head_ip"], *(provider.get("worker_ips") or [])]

    def ssh(self, host: str, command: str) -> list[str]:
        """Return the command line that runs a command on one of the user's own machines."""
        auth = self.content["auth"]
        options = ["BatchMode=yes", f"ConnectTimeout={CONNECT_S}"]
        options += ["StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "LogLevel=ERROR"]
        key = auth.get("ssh_private_key")
        words = ["ssh", *(word for option in options for word in ("-o", option))]
        if key:
            words += ["-o", "IdentitiesOnly=yes", "-i", os.path.expanduser(key)]
        return [*words, f"{auth['ssh_user']}@{host}", command]


def read_cluster(path: Path) -> Cluster:
    """Read the description of a cluster and check what can be checked without the network.

    Raises
    ------
    RequestError
        In one line, what is wrong with it and what to do.
    """
    if not path.is_file():
        raise RequestError(f"{path}: no such file; give cluster.yaml, or your copy of it")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise RequestError(f"{path} cannot be read as YAML: {reason}") from error
    if not isinstance(content, dict) or not isinstance(content.get("provider"), dict):
        raise RequestError(
            f"{path} describes no cluster: it has no provider; start from cluster.yaml (AWS) or "
            "deploy/local.yaml (your own machines)"
        )
    lines = [line.split("#")[0] for line in path.read_text(encoding="utf-8").splitlines()]
    for number, line in enumerate(lines, 1):
        for text, meaning in PLACEHOLDERS.items():
            if text in line:
                raise RequestError(f"{path}, line {number}: {text.strip()}... is {meaning}")
    cluster = Cluster(path, content)
    if cluster.owned:
        _check_owned(cluster)
    return cluster


def _check_owned(cluster: Cluster) -> None:
    """Refuse descriptions of one's own machines that Ray would not refuse, or not in one line."""
    path, content = cluster.path, cluster.content
    auth = content.get("auth") or {}
    if not content["provider"].get("head_ip") or not auth.get("ssh_user"):
        raise RequestError(f"{path}: provider.head_ip and auth.ssh_user are needed")
    if "available_node_types" in content:
        raise RequestError(
            f"{path}: available_node_types does not work with machines of your own; start from "
            "deploy/local.yaml"
        )
    workers = cluster.hosts[1:]
    if len(set(cluster.hosts)) < len(cluster.hosts):
        raise RequestError(f"{path}: a machine is named twice among head_ip and worker_ips")
    for name in ("min_workers", "max_workers"):
        if content.get(name) != len(workers):
            raise RequestError(
                f"{path}: {name} is {content.get(name)}, but worker_ips names {len(workers)} "
                "machines; make them equal"
            )
    key = auth.get("ssh_private_key")
    if key and not Path(key).expanduser().is_file():
        raise RequestError(f"{path}: auth.ssh_private_key: no such file: {key}")


def unreachable(cluster: Cluster) -> list[str]:
    """Log in on each of the user's own machines; return what is wrong, one line for each."""

    def probe(host: str) -> str:
        try:
            done = subprocess.run(
                cluster.ssh(host, PROBE),
                capture_output=True,
                text=True,
                stdin=subprocess.DEVNULL,
                timeout=3 * CONNECT_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return f"{host}: does not answer by ssh within {3 * CONNECT_S} s"
        if done.returncode == 255:  # ssh's own errors
            reason = (done.stderr.strip().splitlines() or ["no connection"])[-1]
            return f"{host}: {reason}"
        lacks = "; ".join(done.stdout.strip().splitlines())
        return f"{host}: {lacks}" if lacks else ""

    with ThreadPoolExecutor(max_workers=16) as pool:
        return [line for line in pool.map(probe, cluster.hosts) if line]


def up(cluster: Cluster) -> int:
    """Start a cluster; return the exit code."""
    if cluster.owned:
        wrong = unreachable(cluster)
        if wrong:
            raise RequestError(
                f"{len(wrong)} of {len(cluster.hosts)} machines cannot be used: {'; '.join(wrong)}"
            )
    code = _ray(cluster, "up", "-y")
    if code:
        print(
            f"error: ray up failed (its reason stands above); make cluster-down "
            f"CLUSTER={cluster.path} removes what it started",
            file=sys.stderr,
        )
        return FAILED
    print(f"the cluster is up; a shell on its head: {_launcher()} attach {cluster.path}")
    return DONE


def down(cluster: Cluster) -> int:
    """Stop a cluster, and on machines that go on remove what was started and written there."""
    code = _ray(cluster, "down", "-y")
    if not cluster.owned:
        return DONE if code == 0 else FAILED
    left = [line for host in cluster.hosts if (line := _clean(cluster, host))]
    for line in left:
        print(f"note: {line}", file=sys.stderr)
    return DONE if code == 0 and not left else FAILED


def _clean(cluster: Cluster, host: str) -> str:
    """Stop Ray on a machine and remove its secrets; return what failed."""
    command = f"~/segsweep/.venv/bin/ray stop --force >/dev/null 2>&1; rm -f {LEFT}"
    done = subprocess.run(cluster.ssh(host, command), capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return ""
    reason = (done.stderr.strip().splitlines() or ["no answer"])[-1]
    return f"{host}: Ray may still run there, and {LEFT} may be left: {reason}"


def _ray(cluster: Cluster, *words: str) -> int:
    """Run a command of Ray's launcher; return its exit code."""
    environment = dict(os.environ)
    if cluster.owned:
        # Ray's new autoscaler never adds workers on such machines
        environment["RAY_UP_enable_autoscaler_v2"] = "0"
    command = [_launcher(), words[0], str(cluster.path), *words[1:]]
    print(f"$ {shlex.join(command)}", flush=True)
    return subprocess.run(command, env=environment, check=False).returncode


def _launcher() -> str:
    return str(Path(sys.executable).with_name("ray"))


def _parser() -> Parser:
    parser = Parser(prog="python -m sweep.cluster.launch", description=__doc__)
    parser.add_argument("action", choices=["up", "down"])
    parser.add_argument("cluster", type=Path, metavar="CLUSTER.yaml")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit code."""

    def work(arguments: Any, _: str) -> int:
        cluster = read_cluster(arguments.cluster)
        return up(cluster) if arguments.action == "up" else down(cluster)

    return run(_parser(), work, argv, refused=(RequestError,))


if __name__ == "__main__":
    sys.exit(main())
