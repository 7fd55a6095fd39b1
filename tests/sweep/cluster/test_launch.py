"""Descriptions of clusters: what is refused before ``ray up`` runs."""

from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from sweep.cluster import launch
from sweep.cluster.launch import Cluster, read_cluster, unreachable
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
    assert own["worker_start_ray_commands"] == cloud["worker_start_ray_commands"]


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
    cluster = read_cluster(filled(tmp_path))
    found = []

    def ssh(self: Cluster, host: str, command: str) -> list[str]:
        found.append(host)
        if host == "127.0.0.2":
            return ["sh", "-c", "echo connect to host: refused >&2; exit 255"]
        return ["sh", "-c", command.replace("rsync", "no_such_tool")]

    monkeypatch.setattr(launch.Cluster, "ssh", ssh)
    assert unreachable(cluster) == [
        "127.0.0.1: no_such_tool is missing",
        "127.0.0.2: connect to host: refused",
    ]
    assert sorted(found) == cluster.hosts
