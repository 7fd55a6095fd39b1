"""Debian's real Slurm on hosts that are namespaces of one machine."""

from __future__ import annotations

import contextlib
import secrets
import time
from pathlib import Path

from tests.sweep.cluster.hosts import ROOT, Hosts

PACKAGES = ("slurmctld", "slurmd", "slurm-client", "munge")
CONTROLLER, NODES = "laptop", ("h1", "h2")
FREEZER = Path("/sys/fs/cgroup/freezer")
"""What ``proctrack/cgroup``, which clusters have, needs here: cgroups of version 1."""

CONFIGURATION = """
ClusterName=lab
SlurmctldHost=laptop(10.77.0.3)
SlurmUser=slurm
AuthType=auth/munge
ProctrackType=proctrack/{proctrack}
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
StateSaveLocation=/var/spool/slurmctld
SlurmdSpoolDir=/var/spool/slurmd
SlurmctldPidFile=/run/slurmctld.pid
SlurmdPidFile=/run/slurmd.pid
SlurmctldLogFile=/var/log/slurmctld.log
SlurmdLogFile=/var/log/slurmd.log
ReturnToService=2
SlurmdTimeout=20
SlurmdParameters=config_overrides
GresTypes=gpu
NodeName=h1 NodeAddr=10.77.0.1 CPUs=8 RealMemory=16000 Gres=gpu:2
NodeName=h2 NodeAddr=10.77.0.2 CPUs=8 RealMemory=16000 Gres=gpu:2
PartitionName=all Nodes=h1,h2 Default=YES MaxTime=INFINITE State=UP
"""
GPUS = "Name=gpu File=/dev/gpu[0-1]\n"
"""Two devices that Slurm hands out as it does GPUs."""

PREPARE = """
set -e
printf %s '{key}' > /etc/munge/munge.key
chown munge:munge /etc/munge/munge.key; chmod 400 /etc/munge/munge.key
mkdir -p /run/munge /var/log/munge /var/lib/munge /var/spool/slurmctld /var/spool/slurmd
chown munge:munge /run/munge /var/log/munge /var/lib/munge; chmod 755 /run/munge
chown slurm /var/spool/slurmctld
for k in 0 1; do mknod -m 666 /dev/gpu$k c 1 3; done
cat > /etc/slurm/slurm.conf <<'END'
{configuration}
END
printf '{gpus}' > /etc/slurm/gres.conf
printf 'CgroupPlugin=cgroup/v1\\n' > /etc/slurm/cgroup.conf
su -s /bin/sh munge -c '/usr/sbin/munged --num-threads=2'
"""
SLURMD = """
set -e
if [ {proctrack} = cgroup ]; then
    mkdir -p /run/freezer; mount -t cgroup -o freezer none /run/freezer
    mkdir -p /run/freezer/{group}; echo $$ > /run/freezer/{group}/cgroup.procs
fi
exec unshare -C -m bash -c '
    set -e; mount -t tmpfs tmpfs /sys/fs/cgroup
    if [ {proctrack} = cgroup ]; then
        mkdir /sys/fs/cgroup/freezer; mount -t cgroup -o freezer none /sys/fs/cgroup/freezer
    fi
    exec slurmd'
"""
"""Starts slurmd with cgroups that the other host, and the machine, do not have."""


class Slurm:
    """A Slurm cluster of two nodes.

    Parameters
    ----------
    hosts : Hosts
        Started with `PACKAGES`.
    """

    def __init__(self, hosts: Hosts) -> None:
        self.hosts = hosts
        self.proctrack = "cgroup" if FREEZER.is_dir() else "linuxproc"

    def start(self) -> None:
        """Start Slurm; both nodes wait for jobs."""
        key = secrets.token_hex(32)
        configuration = CONFIGURATION.format(proctrack=self.proctrack)
        words = {"key": key, "configuration": configuration, "gpus": GPUS.replace("\n", "\\n")}
        for name in (CONTROLLER, *NODES):
            self.hosts.administer(name, PREPARE.format(**words))
        self.hosts.administer(CONTROLLER, "slurmctld")
        for name in NODES:
            group = self._group(name)
            self.hosts.administer(name, SLURMD.format(proctrack=self.proctrack, group=group))
        for _ in range(60):
            if self.ask("sinfo -h -o %t").split() == ["idle"]:
                return
            time.sleep(0.5)
        raise RuntimeError(f"Slurm does not start: {self.ask('sinfo -R -l; scontrol show nodes')}")

    def stop(self) -> None:
        """Remove the cgroups of hosts that have ended."""
        for name in NODES:
            top = FREEZER / self._group(name)
            if top.is_dir():
                folders = sorted((p for p in top.rglob("*") if p.is_dir()), reverse=True)
                for folder in (*folders, top):
                    with contextlib.suppress(OSError):
                        folder.rmdir()

    def ask(self, command: str) -> str:
        """Return what a command of the ordinary user prints on a node."""
        done = self.hosts.run("h1", f"cd ~/segsweep && {command}")
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def submit(self, name: str, settings: dict[str, str], *options: str) -> int:
        """Enter what is the user's in the batch file, and submit it; return the job's number.

        Parameters
        ----------
        name : str
            Name of the copy of the file.
        settings : dict
            New text by the text that the file comes with.
        *options : str
            Of sbatch.
        """
        text = (ROOT / "deploy" / "segsweep.slurm").read_text()
        for before, after in settings.items():
            assert text.count(before) == 1, before
            text = text.replace(before, after)
        self.hosts.write("h1", f"segsweep/{name}", text.encode())
        return int(self.ask(f"sbatch --parsable {' '.join(options)} {name}"))

    def state(self, job: int) -> str:
        """Return Slurm's name of the state of a job."""
        return self.shown(job)["JobState"]

    def shown(self, job: int) -> dict[str, str]:
        """Return all that Slurm says about a job."""
        words = self.ask(f"scontrol show job {job}").split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def start_again(self, job: int) -> None:
        """Let a job that was queued again start now, and not in two minutes."""
        for _ in range(240):
            if self.state(job) == "PENDING":
                time.sleep(5)  # until the nodes have forgotten its last start
                self.ask(f"scontrol update jobid={job} StartTime=now")
                return
            time.sleep(0.5)
        raise AssertionError(f"the job was not queued again: {self.shown(job)}")

    def _group(self, name: str) -> str:
        return f"{self.hosts.network}-{name}"
