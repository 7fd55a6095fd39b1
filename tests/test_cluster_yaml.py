"""cluster.yaml passes Ray's own checks, without asking the network."""

from __future__ import annotations

import copy
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def config() -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((ROOT / "cluster.yaml").read_text())
    return content


@pytest.fixture(scope="module")
def prepared(config: dict[str, Any]) -> dict[str, Any]:
    from ray.autoscaler._private.util import prepare_config, validate_config

    result: dict[str, Any] = prepare_config(copy.deepcopy(config))
    validate_config(result)
    return result


def test_ray_refuses_what_its_schema_does_not_know(config: dict[str, Any]) -> None:
    import jsonschema
    from ray.autoscaler._private.util import prepare_config, validate_config

    with pytest.raises(jsonschema.ValidationError):
        validate_config(prepare_config({**copy.deepcopy(config), "instances": 3}))


def test_workers_grow_from_none_and_have_a_gpu(prepared: dict[str, Any]) -> None:
    worker = prepared["available_node_types"]["gpu_worker"]
    assert prepared["max_workers"] >= worker["max_workers"] > worker["min_workers"] == 0
    assert worker["node_config"]["InstanceType"].startswith(("g", "p"))
    assert prepared["available_node_types"]["head"]["resources"] == {"CPU": 0}


def test_every_node_gets_the_pinned_environment(prepared: dict[str, Any]) -> None:
    assert any("make setup" in command for command in prepared["setup_commands"])
    makefile = (ROOT / "Makefile").read_text()
    assert "-c constraints.txt" in makefile
    mounts = prepared["file_mounts"]
    assert all(remote == f"~/segsweep/{local}" for remote, local in mounts.items())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = {p for p in project["tool"]["setuptools"]["packages"] if (ROOT / p).is_dir()}
    assert packages | {"Makefile", "pyproject.toml", "constraints.txt"} <= set(mounts.values())
    assert {project["project"]["readme"], *project["project"]["license-files"]} <= set(
        mounts.values()
    )


def test_mounts_hold_little(prepared: dict[str, Any]) -> None:
    # ray up reads all of them, and fails where one is missing
    for local in prepared["file_mounts"].values():
        files = [ROOT / local] if (ROOT / local).is_file() else list((ROOT / local).rglob("*"))
        assert files
        assert sum(f.stat().st_size for f in files if f.is_file()) < 20e6


def test_no_module_is_left_out(prepared: dict[str, Any]) -> None:
    """Rsync leaves out whatever has an excluded name, at any depth: trainables/data, once."""
    excluded = {name.removeprefix("**/") for name in prepared["rsync_exclude"]}
    assert excluded == {"__pycache__"}, "ray rsync-down leaves them out, too"
    for local in prepared["file_mounts"].values():
        for path in (ROOT / local).rglob("*.py"):
            assert not excluded & set(path.relative_to(ROOT).parts), path


def test_commands_are_valid_shell(prepared: dict[str, Any]) -> None:
    for name, commands in prepared.items():
        for command in commands if name.endswith("_commands") else []:
            subprocess.run(["bash", "-n", "-c", command], check=True)


def test_ray_takes_the_address_that_is_set(prepared: dict[str, Any]) -> None:
    from ray._private.services import canonicalize_bootstrap_address

    (line,) = [c for c in prepared["head_setup_commands"] if "RAY_ADDRESS" in c]
    address = line.split("RAY_ADDRESS=")[1].split("'")[0]
    resolved = canonicalize_bootstrap_address(address)
    assert resolved is not None
    assert resolved.endswith(":6379")


def test_plain_command_uses_the_cluster(prepared: dict[str, Any]) -> None:
    (line,) = [c for c in prepared["head_setup_commands"] if "RAY_ADDRESS" in c]
    assert "export RAY_ADDRESS=127.0.0.1:6379" in line
    (head,) = [c for c in prepared["head_start_ray_commands"] if "ray start" in c]
    assert "--head --port=6379" in head


def test_all_nodes_show_one_token(prepared: dict[str, Any]) -> None:
    token = "~/.segsweep/token"
    assert prepared["cluster_synced_files"] == [token]
    (made,) = [c for c in prepared["head_setup_commands"] if "secrets.token_hex(32)" in c]
    assert f"> {token}" in made
    for name in ("head_start_ray_commands", "worker_start_ray_commands"):
        (start,) = [c for c in prepared[name] if "ray start" in c]
        assert "export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=$HOME/.segsweep/token;" in start


def test_nothing_but_ssh_is_open(prepared: dict[str, Any], config: dict[str, Any]) -> None:
    assert "security_group" not in config["provider"], "Ray's own opens SSH only"
    for kind in prepared["available_node_types"].values():
        assert not {"SecurityGroupIds", "NetworkInterfaces"} & set(kind["node_config"])
    for command in prepared["head_start_ray_commands"]:
        assert "0.0.0.0" not in command


def test_shared_storage_is_mounted_on_every_node(config: dict[str, Any]) -> None:
    assert any("mount -t nfs4" in c and "/shared" in c for c in config["initialization_commands"])
