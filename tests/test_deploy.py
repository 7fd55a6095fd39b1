"""The files in deploy/: what can be checked of them in seconds."""

from __future__ import annotations

import argparse
import os
import re
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.waiting import wait_for

ROOT = Path(__file__).parents[1]
SLURM = ROOT / "deploy" / "segsweep.slurm"
FAKE_RAY = """#!/bin/bash
echo "$*" >> "$CALLS"
sleep 100 &
trap 'kill $!; exit 1' TERM
wait
"""


def slurm_lines() -> list[str]:
    return SLURM.read_text().splitlines()


def test_slurm_reads_every_option_of_the_batch_file() -> None:
    """Sbatch stops reading options at the first command."""
    subprocess.run(["bash", "-n", SLURM], check=True)
    lines = slurm_lines()
    commands = [k for k, line in enumerate(lines) if line and not line.startswith("#")]
    options = [k for k, line in enumerate(lines) if line.startswith("#SBATCH")]
    assert max(options) < min(commands)
    words = {lines[k].split()[1] for k in options}
    assert {"--requeue", "--no-kill", "--open-mode=append", "--ntasks-per-node=1"} <= words
    assert any(word.startswith("--signal=B:USR1@") for word in words)


def test_slurm_block_is_all_that_a_user_edits() -> None:
    text = SLURM.read_text()
    _, block, rest = text.split("\n# ---", 2)
    for name in ("partition", "nodes", "gpus-per-node", "cpus-per-task", "mem", "time"):
        assert f"#SBATCH --{name}=" in block
    for name in ("SWEEP=(", "OUT=", "BIN=", "IN=(", "LOCAL="):
        assert f"\n{name}" in block
    assert "/shared" not in rest


def test_slurm_fixes_no_port_and_ends_no_other_ray() -> None:
    code = "\n".join(line.split("#")[0] for line in slurm_lines())
    assert "6379" not in code
    assert "10001" not in code
    assert "ray stop" not in code
    assert "symmetric-run" not in code
    assert "pkill" not in code


@pytest.mark.parametrize("number", [0, 1])
def test_a_slurm_node_gives_ray_what_slurm_gave_it(number: int, tmp_path: Path) -> None:
    text = SLURM.read_text()
    functions = "say() {" + text.split("say() {")[1].split("\n# Wait for a child")[0]
    calls = tmp_path / "calls"
    for name in ("bin", "local"):
        (tmp_path / name).mkdir()
    ray = tmp_path / "bin" / "ray"
    ray.write_text(FAKE_RAY)
    ray.chmod(0o755)
    folder = tmp_path / "local" / "ray-7-abcd"
    old = tmp_path / "local" / "ray-7-0000"  # of this job, before it was queued again
    other = tmp_path / "local" / "ray-71-0000"
    old.mkdir()
    other.mkdir()
    process = subprocess.Popen(
        ["bash", "-c", f"IN=() BIN={ray.parent} LOCAL={folder.parent}\n{functions}\nray_node"],
        env={
            "PATH": os.environ["PATH"],
            "CALLS": str(calls),
            "SEGSWEEP_FOLDER": str(folder),
            "SEGSWEEP_PORT": "20001",
            "SEGSWEEP_CLIENT_PORT": "20002",
            "SEGSWEEP_SHELL": str(os.getpid()),
            "SLURM_JOB_ID": "7",
            "SLURM_JOB_NUM_NODES": "2",
            "SLURM_NODEID": str(number),
            "SLURM_LAUNCH_NODE_IPADDR": "10.0.0.1",
            "SLURM_CPUS_PER_TASK": "6",
            "SLURM_MEM_PER_NODE": "1000",
            "CUDA_VISIBLE_DEVICES": "3,5",
        },
        text=True,
    )
    told = []
    before = signal.signal(signal.SIGTERM, lambda *_: told.append(True))
    try:
        wait_for(lambda: calls.exists() and calls.read_text().endswith("\n"), process)
        words = calls.read_text().split()
        assert folder.stat().st_mode & 0o777 == 0o700
        assert not old.exists()
        assert other.exists()
        # Slurm's TERM reaches this first; the sweep still needs Ray
        process.send_signal(signal.SIGTERM)
        time.sleep(0.5)
        assert process.poll() is None
        assert bool(told) == (number == 0), "the batch shell is on the first node"
        process.send_signal(signal.SIGUSR2)
        process.wait(timeout=30)
    finally:
        signal.signal(signal.SIGTERM, before)
        process.kill()
        process.wait()
    assert not folder.exists()
    common = {"start", "--block", "--num-gpus=2", "--num-cpus=6", f"--temp-dir={folder}"}
    common |= {f"--memory={1000 * 2**20 * 9 // 10}", "--min-worker-port=0"}
    assert common <= set(words)
    head = {"--head", "--port=20001", "--node-ip-address=10.0.0.1", "--include-dashboard=false"}
    if number == 0:
        assert head <= set(words)
    else:
        assert not head & set(words)
        assert "--address=10.0.0.1:20001" in words


WAITING = """
{functions}
bash -c '
    trap "echo int" INT; trap "echo term; exit 7" TERM
    touch ready; while :; do sleep 0.1; done' &
child=$!
until [ -e ready ]; do sleep 0.1; done
(
    kill -STOP $child; sleep 0.3; kill -CONT $child
    kill -USR1 $$; sleep 0.5; kill -USR1 $$; sleep 0.5; kill -TERM $$
) &
await $child
echo $? ${{again:-0}}
"""


def test_the_batch_shell_passes_signals_on_and_waits_for_the_sweep(tmp_path: Path) -> None:
    text = SLURM.read_text()
    functions = "await() {" + text.split("\nawait() {")[1].split("\nFREE_PORTS=")[0]
    done = subprocess.run(
        ["bash", "-c", WAITING.format(functions=functions)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    # INT once, and what ends the sweep is its own exit code, not that of a signal
    assert done.stdout.split() == ["int", "term", "7", "1"], done.stderr


STARTER = "deploy/start_or_resume.sh"
CODE = ["sweep", "trainables", "search_spaces", "analysis"]
PROJECT = ["Makefile", "pyproject.toml", "constraints.txt", "README.md", "LICENSE", *CODE]


def instructions(path: Path) -> list[tuple[str, str]]:
    """Return the instructions of a Dockerfile, each in one line."""
    text = re.sub(r"^#.*\n", "", path.read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    return [(line.split()[0], line.split(None, 1)[1]) for line in text.splitlines() if line.strip()]


def test_dockerfile_installs_the_pinned_environment_as_an_ordinary_user() -> None:
    lines = instructions(ROOT / "deploy" / "Dockerfile")
    copied = [w for word, rest in lines if word == "COPY" for w in rest.split()[1:-1]]
    assert sorted(copied) == sorted([*PROJECT, STARTER])
    assert all((ROOT / name).exists() for name in copied)
    for word, rest in lines:
        if word == "RUN":
            subprocess.run(["bash", "-n", "-c", rest], check=True)
    (made,) = [k for k, (word, rest) in enumerate(lines) if word == "RUN" and "make setup" in rest]
    assert ("USER", "segsweep") in lines[:made]
    ignored = (ROOT / "deploy" / "Dockerfile.dockerignore").read_text().split("\n")
    assert {line[1:] for line in ignored if line.startswith("!")} == {*PROJECT, STARTER}


@pytest.mark.parametrize("name", ["Dockerfile", "segsweep.def"])
@pytest.mark.parametrize(
    ("device", "code", "said"), [("cpu", 0, "cpu"), ("cuda", 0, "-"), ("tpu", 2, "not tpu")]
)
def test_images_for_cpus_and_gpus(name: str, device: str, code: int, said: str) -> None:
    text = (ROOT / "deploy" / name).read_text().replace("\\\n", "\n")
    (choice,) = re.findall(r"case .*?esac", text, flags=re.DOTALL)
    script = choice.replace("{{ DEVICE }}", device) + '\necho "${UV_TORCH_BACKEND:--}"'
    done = subprocess.run(
        ["sh", "-c", script],
        env={"DEVICE": device, "PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code
    assert said in done.stdout


def test_apptainer_recipe_is_the_dockerfile_s_environment() -> None:
    recipe = (ROOT / "deploy" / "segsweep.def").read_text()
    sections = dict(re.findall(r"^%(\w+)\n(.*?)(?=^%|\Z)", recipe, re.MULTILINE | re.DOTALL))
    assert set(sections) == {"arguments", "files", "post", "environment", "runscript"}
    assert [line.split()[0] for line in sections["files"].splitlines() if line] == PROJECT
    subprocess.run(["sh", "-n", "-c", sections["post"]], check=True)
    docker = instructions(ROOT / "deploy" / "Dockerfile")
    assert ("FROM", re.findall("From: (.*)", recipe)[0]) in docker
    for name, value in [rest.split("=") for word, rest in docker if word == "ARG"]:
        assert f"{name}={value}" in sections["arguments"]
    (packages,) = re.findall(r"no-install-recommends\s(.*?)\n\s*rm", sections["post"], re.DOTALL)
    (apt,) = [rest for word, rest in docker if word == "RUN" and "apt-get" in rest]
    assert (
        packages.replace("\\", "").split() == re.split("--no-install-recommends|&&", apt)[2].split()
    )


@pytest.fixture(scope="module")
def rayjob() -> tuple[dict[str, Any], dict[str, Any]]:
    job, policy = yaml.safe_load_all((ROOT / "deploy" / "rayjob.yaml").read_text())
    return job, policy


def pods(job: dict[str, Any]) -> list[dict[str, Any]]:
    cluster = job["spec"]["rayClusterSpec"]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    return [group["template"]["spec"] for group in groups]


def test_rayjob_has_fields_that_kuberay_knows(rayjob: tuple[dict[str, Any], ...]) -> None:
    job = rayjob[0]
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    # KubeRay 1.5, ray-operator/apis/ray/v1/rayjob_types.go and raycluster_types.go
    assert set(job["spec"]) <= {
        *("activeDeadlineSeconds", "backoffLimit", "rayClusterSpec", "submitterPodTemplate"),
        *("metadata", "clusterSelector", "submitterConfig", "managedBy", "deletionStrategy"),
        *("entrypoint", "runtimeEnvYAML", "jobId", "submissionMode", "entrypointResources"),
        *("entrypointNumCpus", "entrypointNumGpus", "ttlSecondsAfterFinished"),
        *("shutdownAfterJobFinishes", "suspend"),
    }
    cluster = job["spec"]["rayClusterSpec"]
    assert set(cluster) == {"rayVersion", "authOptions", "headGroupSpec", "workerGroupSpecs"}
    assert f"ray=={cluster['rayVersion']}" in (ROOT / "constraints.txt").read_text().splitlines()
    for worker in cluster["workerGroupSpecs"]:
        assert worker["replicas"] == worker["minReplicas"] == worker["maxReplicas"]


def test_rayjob_opens_nothing_and_asks_for_a_token(rayjob: tuple[dict[str, Any], ...]) -> None:
    job, policy = rayjob
    cluster = job["spec"]["rayClusterSpec"]
    assert cluster["authOptions"] == {"mode": "token"}
    assert cluster["headGroupSpec"]["serviceType"] == "ClusterIP"
    assert not any("hostNetwork" in pod or "ports" in pod["containers"][0] for pod in pods(job))
    assert all(pod["securityContext"]["runAsNonRoot"] for pod in pods(job))
    (source,) = policy["spec"]["ingress"]
    assert source["from"][0] == {"podSelector": {}}, "of this namespace only"
    assert "podSelector" in source["from"][1]


def test_rayjob_nodes_share_image_and_storage(rayjob: tuple[dict[str, Any], ...]) -> None:
    job = rayjob[0]
    submitter = job["spec"]["submitterPodTemplate"]["spec"]
    images = {pod["containers"][0]["image"] for pod in (*pods(job), submitter)}
    assert len(images) == 1
    for pod in pods(job):
        mounts = {m["name"]: m["mountPath"] for m in pod["containers"][0]["volumeMounts"]}
        assert mounts == {"shared": "/shared", "memory": "/dev/shm"}
        assert {volume["name"] for volume in pod["volumes"]} == set(mounts)
        resources = pod["containers"][0]["resources"]
        assert resources["limits"]["memory"] == resources["requests"]["memory"]


def test_rayjob_starts_a_sweep(rayjob: tuple[dict[str, Any], ...]) -> None:
    spec = rayjob[0]["spec"]
    assert spec["backoffLimit"] > 0
    # KubeRay puts this line into a script, and Ray gives it to a shell on the head
    assert not set(spec["entrypoint"]) & set("$;&|<>\"'`()\\#*?")
    words = spec["entrypoint"].split()
    assert words[:2] == ["sh", f"/segsweep/{STARTER}"]
    assert words[2].startswith("/shared/")
    sweep_arguments(words[3:])


def test_a_sweep_is_started_or_resumed(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    python.chmod(0o755)
    done = subprocess.run(
        ["sh", ROOT / STARTER, "s3://lab/a run", "demo", "--only", "task=semantic2"],
        env={"PATH": f"{tmp_path}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=True,
    )
    words = done.stdout.splitlines()
    assert words[:2] == ["-m", "sweep.run"]
    found = sweep_arguments(words[2:])
    assert (found.space, found.only, found.out) == ("demo", ["task=semantic2"], "s3://lab/a run")
    assert found.start_or_resume


def sweep_arguments(words: list[str]) -> argparse.Namespace:
    from sweep.run import parser

    return parser().parse_args(words)


@pytest.fixture(scope="module")
def sky() -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((ROOT / "deploy" / "skypilot.yaml").read_text())
    return content


def test_skypilot_file_is_complete(sky: dict[str, Any]) -> None:
    for name in ("setup", "run"):
        subprocess.run(["bash", "-n", "-c", sky[name]], check=True)
    assert "make setup" in sky["setup"]
    assert sky["secrets"] == {"RAY_AUTH_TOKEN": None}, "made for each job, in no file"
    assert "ports" not in sky["resources"]
    assert "ray stop" not in sky["run"]
    assert sky["envs"]["OUT"].startswith(*sky["volumes"])
    sweep_arguments(f"{sky['envs']['SWEEP']} --out {sky['envs']['OUT']} --start-or-resume".split())


def test_batch_file_names_options_of_sweep_run() -> None:
    (line,) = [line for line in slurm_lines() if line.startswith("SWEEP=(")]
    sweep_arguments(line[7:-1].split())
