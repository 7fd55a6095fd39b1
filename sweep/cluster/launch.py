"""Start and stop a cluster that a file describes.

``python -m sweep.cluster.launch up CLUSTER.yaml`` checks in seconds what Ray's launcher would find
out in minutes or never, then runs ``ray up``; ``down`` runs ``ray down`` and removes what that
leaves.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import time
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
CHECK, WAIT = (Path(__file__).with_name(name) for name in ("host_check.py", "wait_for_nodes.py"))
"""Programs that run on the machines."""
CLOCKS_S = 60.0
LEFT = "~/ray_bootstrap_key.pem ~/ray_bootstrap_config.yaml ~/.segsweep /tmp/segsweep-$(id -u)"
"""What ``ray up`` and Ray write on the machines: a private key, secrets of the cluster, logs."""
CLEAN = (
    "~/segsweep/.venv/bin/ray stop --force >/dev/null 2>&1; "
    "! grep -qs '# segsweep$' ~/.bashrc || sed -i --follow-symlinks '/# segsweep$/d' ~/.bashrc; "
    f"rm -rf {LEFT}"
)
DOWN_S = 60


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

    @property
    def ports(self) -> list[list[str]]:
        """Ports that Ray takes on each of the hosts."""
        head, worker = (
            re.findall(r"--(?:object-manager-)?port=(\d+)", " ".join(self.content[name] or []))
            for name in ("head_start_ray_commands", "worker_start_ray_commands")
        )
        return [head, *([worker] * (len(self.hosts) - 1))]

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


def examine(cluster: Cluster) -> tuple[list[str], list[str]]:
    """Log in on each of the user's own machines and look whether a cluster can start there.

    Returns
    -------
    list of str
        What stands in the way, one line for each machine.
    list of str
        What else to say.
    """
    wrong, notes, versions = list[str](), list[str](), dict[str, list[str]]()

    def look(host: str, ports: Sequence[str]) -> tuple[str, Any]:
        command = shlex.join(["python3", "-", *ports])
        there = (
            f"command -v python3 >/dev/null || {{ echo python3 is missing; exit 1; }}; {command}"
        )
        began = time.time()
        error, text = _there(cluster, host, there, CHECK.read_text(), 3 * CONNECT_S)
        if error:
            return error, None
        try:
            found = json.loads(text.strip().splitlines()[-1])  # a shell may print before it
        except (ValueError, IndexError):
            return " ".join(text.split()) or "python3 says nothing", None
        away = max(began - found["time"], found["time"] - time.time())
        if away > CLOCKS_S:
            notes.append(f"the clock of {host} differs by {away:.0f} s from the one here")
        return "; ".join(found["wrong"]), found["version"]

    with ThreadPoolExecutor(max_workers=16) as pool:
        for host, (line, version) in zip(
            cluster.hosts, pool.map(look, cluster.hosts, cluster.ports)
        ):
            if line:
                wrong.append(f"{host}: {line}")
            if version:
                versions.setdefault(version, []).append(host)
    if len(versions) > 1:
        each = "; ".join(f"{one} on {', '.join(where)}" for one, where in versions.items())
        wrong.append(f"Ray needs the same Python on all machines, but it is {each}")
    return wrong, sorted(notes)


def _there(cluster: Cluster, host: str, command: str, text: str, seconds: float) -> tuple[str, str]:
    """Run a command on a machine, which reads a text; return ssh's own error, and the output."""
    try:
        done = subprocess.run(
            cluster.ssh(host, command),
            input=text,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"does not answer by ssh within {seconds:.0f} s", ""
    if done.returncode == 255:  # ssh's own errors
        return (done.stderr.strip().splitlines() or ["no connection"])[-1], ""
    return "", done.stdout


def up(cluster: Cluster) -> int:
    """Start a cluster; return the exit code."""
    if cluster.owned:
        wrong, notes = examine(cluster)
        for note in notes:
            print(f"note: {note}", file=sys.stderr)
        if wrong:
            raise RequestError(
                f"the cluster cannot be started on these {len(cluster.hosts)} machines: "
                + "; ".join(wrong)
            )
    code = _ray(cluster, "up", "-y")
    name = shlex.quote(str(cluster.path))
    if code:
        print(
            f"error: ray up failed (its reason stands above); make cluster-down CLUSTER={name} "
            "removes what it started",
            file=sys.stderr,
        )
        return FAILED
    joined = not cluster.owned or _joined(cluster)
    if joined:
        print("the cluster is up")
    else:
        print(
            "error: the cluster is up, but not with all machines (the reason stands above): a "
            "sweep would run on the others",
            file=sys.stderr,
        )
    print(f"  a shell on its head: {_launcher()} attach {name}")
    print(f"  end it:              make cluster-down CLUSTER={name}")
    return DONE if joined else FAILED


def _joined(cluster: Cluster) -> bool:
    """Wait until all of the user's own machines have joined; return whether they have."""
    head, port = cluster.hosts[0], cluster.ports[0][0]
    words = ["-", f"{head}:{port}"]
    command = (
        f"~/segsweep/.venv/bin/python {shlex.join(words)} /tmp/segsweep-$(id -u)/ray "
        + shlex.join(cluster.hosts)
    )
    print("waiting for the machines to join (the first time, they install for minutes) ...")
    sys.stdout.flush()
    with open(WAIT, encoding="utf-8") as program:
        done = subprocess.run(cluster.ssh(head, command), stdin=program, check=False)
    return done.returncode == 0


def down(cluster: Cluster) -> int:
    """Stop a cluster, and on machines that go on remove what was started and written there."""
    code = _ray(cluster, "down", "-y")
    if not cluster.owned:
        return DONE if code == 0 else FAILED

    def clean(host: str) -> str:
        error, _ = _there(cluster, host, CLEAN, "", DOWN_S)
        return f"{host}: Ray may still run there, and {LEFT} may be left: {error}" if error else ""

    with ThreadPoolExecutor(max_workers=16) as pool:
        left = [line for line in pool.map(clean, cluster.hosts) if line]
    for line in left:
        print(f"note: {line}", file=sys.stderr)
    if code or left:
        return FAILED
    print(f"Ray has ended on {len(cluster.hosts)} machines; key, token and logs are removed there")
    return DONE


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
