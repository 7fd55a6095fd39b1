"""Descriptions of clusters: what is refused before ``ray up`` runs."""

from __future__ import annotations

import copy
import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from sweep.cluster import launch
from sweep.cluster.launch import Cluster, examine, read_cluster
from sweep.cluster.wait_for_nodes import failures
from sweep.request import RequestError

ROOT = Path(__file__).parents[3]
LOCAL = (ROOT / "deploy" / "local.yaml").read_text()


def filled(tmp_path: Path, **changes: Any) -> Path:
    """Write deploy/local.yaml with addresses and a key, and further changes."""
    key = tmp_path / "key"
    key.touch()
    text = LOCAL.replace("192.0.2.1 ", "127.0.0.1 ").replace("[192.0.2.2] ", "[127.0.0.2] ")
    content = yaml.safe_load(text.replace("~/.ssh/id_ed25519", str(key)))
    for name, value in changes.items():
        place = content
        *outer, last = name.split("__")
        for one in outer:
            place = place[one]
        place[last] = value
    path = tmp_path / "lab.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def test_rays_own_checks_accept_it(tmp_path: Path) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    cluster = read_cluster(filled(tmp_path))
    assert cluster.owned
    assert cluster.hosts == ["127.0.0.1", "127.0.0.2"]
    prepared = prepare_config(copy.deepcopy(dict(cluster.content)))
    validate_config(prepared)
    starts = prepared["head_start_ray_commands"] + prepared["worker_start_ray_commands"]
    for command in starts:
        assert "RAY_AUTH_MODE=token" in command or command.endswith("ray stop")
        subprocess.run(["bash", "-n", "-c", command], check=True)
    assert "--dashboard-host=127.0.0.1" in " ".join(starts)


def test_both_files_install_and_protect_nodes_alike() -> None:
    own, cloud = yaml.safe_load(LOCAL), yaml.safe_load((ROOT / "cluster.yaml").read_text())
    for name in (
        "file_mounts",
        "rsync_exclude",
        "setup_commands",
        "head_setup_commands",
        "cluster_synced_files",
        "worker_setup_commands",
    ):
        assert own[name] == cloud[name], name
    # on machines that others use, Ray also has a folder of its own, and no metrics
    (mine,), (there,) = (
        [line for line in file["worker_start_ray_commands"] if "ray start" in line]
        for file in (own, cloud)
    )
    start = mine.replace(" --temp-dir=$D/ray", "").rpartition("; ")[2]
    start = re.sub(r" --node-ip-address=\$\(.*?\)", "", start)
    assert start == there.rpartition("; ")[2]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"provider__head_ip": "192.0.2.1"}, "an address that nobody has"),
        ({"min_workers": 3}, "min_workers is 3, but worker_ips names 1 machines"),
        ({"provider__worker_ips": ["127.0.0.1"]}, "named twice"),
        ({"available_node_types": {}}, "available_node_types does not work"),
        ({"auth__ssh_private_key": "/no/such/key"}, "no such file: /no/such/key"),
        ({"auth__ssh_user": ""}, "auth.ssh_user are needed"),
        ({"provider": 3}, "has no provider"),
    ],
)
def test_wrong_descriptions_are_refused(
    tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(RequestError, match=words) as caught:
        read_cluster(filled(tmp_path, **changes))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["a: [", "3", ""])
def test_other_files_are_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(text)
    with pytest.raises(RequestError) as caught:
        read_cluster(path)
    assert "\n" not in str(caught.value)
    with pytest.raises(RequestError, match=r"none\.yaml: no such file"):
        read_cluster(tmp_path / "none.yaml")


@pytest.mark.parametrize("name", ["cluster.yaml", "deploy/local.yaml"])
def test_what_only_the_user_knows_must_be_entered(name: str) -> None:
    words = [sys.executable, "-m", "sweep.cluster.launch", "up", name]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {name}, line ")
    assert done.stderr.count("\n") == 1


def test_a_comment_is_no_placeholder(tmp_path: Path) -> None:
    path = filled(tmp_path)
    path.write_text(path.read_text() + "# such as 192.0.2.1\n")
    assert read_cluster(path).owned


def test_machines_that_do_not_answer_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also what those lack that do: a stand-in for ssh runs the command here."""
    changes = {"provider__worker_ips": ["127.0.0.2", "127.0.0.3"], "min_workers": 2}
    cluster = read_cluster(filled(tmp_path, **changes, max_workers=2))
    assert cluster.ports == [["6379", "8076"], ["8076"], ["8076"]]
    other = "import json; print(json.dumps(dict(version='3.11.99', wrong=[], time=0)))"

    def ssh(self: Cluster, host: str, command: str) -> list[str]:
        if host == "127.0.0.2":
            return ["sh", "-c", "echo connect to host: refused >&2; exit 255"]
        if host == "127.0.0.3":
            return [sys.executable, "-c", other]
        return ["sh", "-c", f"echo a line of the shell; export PATH={tmp_path}; {command}"]

    (tmp_path / "python3").symlink_to(sys.executable)
    monkeypatch.setattr(launch.Cluster, "ssh", ssh)
    wrong, notes = examine(cluster)
    assert wrong[0].startswith("127.0.0.1: make is missing; gcc is missing; rsync is missing")
    assert wrong[1] == "127.0.0.2: connect to host: refused"
    assert wrong[2].startswith("Ray needs the same Python on all machines, but it is 3.")
    assert wrong[2].endswith("3.11.99 on 127.0.0.3")
    (note,) = notes
    assert note.startswith("the clock of 127.0.0.3 differs by ")


def checked(*ports: int) -> list[str]:
    """Return what the check of a machine finds here."""
    done = subprocess.run(
        [sys.executable, "-", *map(str, ports)],
        input=launch.CHECK.read_text(),
        capture_output=True,
        text=True,
        check=True,
    )
    wrong: list[str] = json.loads(done.stdout)["wrong"]
    return wrong


@contextmanager
def pretends(*words: str) -> Iterator[int]:
    """Run a process with these words as its command line."""
    wait = "import sys; print(flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [words[0], "-c", wait, *words[1:]],
        executable=sys.executable,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process.pid


def test_what_a_start_would_end_is_named() -> None:
    with pretends("python", "-m", "sweep.run", "demo") as number:
        assert any(f"stop it yourself (kill -INT {number})" in line for line in checked())
    with pretends("python", "-m", "sweep.run", "--watch", "runs/demo") as number:
        assert not any(str(number) in line for line in checked())
    with pretends("/x/raylet", "--a=/tmp/ray/session") as number:
        found = [line for line in checked() if f"(process {number})" in line]
        assert len(found) == 1
        assert found[0].startswith("another Ray of yours runs there")


def test_a_port_in_use_is_named_unless_the_cluster_is_up() -> None:
    with socket.socket() as one:
        one.bind(("", 0))
        one.listen()
        port = one.getsockname()[1]
        assert any(line.startswith(f"port {port} is in use there") for line in checked(port))
        own = f"/tmp/segsweep-{os.getuid()}/ray/session"
        with pretends("/x/raylet", own) as number:
            assert not any(str(number) in line or str(port) in line for line in checked(port))


LOG = """2026-11-30 01:54:55,962 SUCC updater.py:301 -- Success.
mkdir: cannot create directory '/home/lab/segsweep/sweep': Permission denied
2026-11-30 01:54:56,018 ERR updater.py:177 -- New status: update-failed
2026-11-30 01:54:56,019 ERR updater.py:191 -- Full traceback: Traceback (most recent call last):
  File "x.py", line 172, in run
    self.do_update()
click.exceptions.ClickException: SSH command failed.
2026-11-30 01:55:56,018 ERR updater.py:177 -- New status: update-failed
"""


def test_the_reason_is_found_in_the_launchers_log() -> None:
    denied = "mkdir: cannot create directory '/home/lab/segsweep/sweep': Permission denied"
    assert failures(LOG) == [denied, "the log does not say why"]
    assert failures("") == []


@pytest.mark.parametrize("before", [None, "", "alias ll='ls -l'\n"])
def test_what_setup_adds_to_a_shell_is_taken_away(tmp_path: Path, before: str | None) -> None:
    """Run here with another home folder, twice, as for two nodes with one home folder."""
    start = tmp_path / ".bashrc"
    if before is not None:
        start.write_text(before)
    content = yaml.safe_load(LOCAL)
    shell = ["env", f"HOME={tmp_path}", "bash", "--norc", "-c"]
    for name, extra in (("h1", content["head_setup_commands"][1:]), ("h2", [])):
        for command in [*content["setup_commands"][1:], *extra]:
            subprocess.run([*shell, f"HOSTNAME={name}; {command}"], check=True)
    shown = "HOSTNAME={}; . ~/.bashrc; echo $RAY_ADDRESS $RAY_AUTH_MODE; echo $PATH"
    for name, address in (("h1", "127.0.0.1:6379 token"), ("h2", "token")):
        words = [*shell, f"unset RAY_ADDRESS RAY_AUTH_MODE; {shown.format(name)}"]
        text = subprocess.run(words, capture_output=True, text=True, check=True).stdout
        assert text.splitlines()[0] == address
        assert text.splitlines()[1].startswith(f"{tmp_path}/segsweep/.venv/bin:")
    assert start.read_text().count("segsweep") == 2, "one line, which names it twice"
    clean = launch.CLEAN.partition("; ")[2].replace("/tmp/segsweep-", f"{tmp_path}/none-")
    subprocess.run([*shell, clean], check=True)
    assert start.read_text() == (before or "")
    assert list(tmp_path.iterdir()) == [start]


def test_a_path_with_spaces(tmp_path: Path) -> None:
    words = [
        "make",
        "--no-print-directory",
        "-n",
        "-o",
        ".venv/.installed",
        "cluster-up",
        "CLUSTER=deploy/my lab.yaml",
    ]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith('launch up "deploy/my lab.yaml"')
