"""Hosts on one machine: namespaces with their own network, processes, files and ssh server.

Needs root with the capabilities SYS_ADMIN and NET_ADMIN, overlayfs, and Debian's packages (once).
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
VENV = Path(sys.prefix)
NETWORK = "10.77.0"
NAMES = ("h1", "h2", "laptop")
"""Two machines of a lab, and one that is none of its cluster's nodes."""

BASE_LAYER = r"""
set -e
M=$BASE/up/base/m
mkdir -p $BASE/up; mount -t tmpfs tmpfs $BASE/up; mkdir -p $BASE/up/base/u $BASE/up/base/w $M
mount -t overlay overlay -o lowerdir=/,upperdir=$BASE/up/base/u,workdir=$BASE/up/base/w $M
trap 'umount $M' EXIT
printf '#!/bin/sh\nexit 101\n' > $M/usr/sbin/policy-rc.d; chmod +x $M/usr/sbin/policy-rc.d
if ! chroot $M sh -c 'command -v sshd rsync ip ssh-keygen make gcc' >/dev/null; then
  chroot $M sh -c 'apt-get update -qq; DEBIAN_FRONTEND=noninteractive apt-get install -y -qq \
    openssh-server rsync iproute2 make gcc' >/dev/null
fi
if [ -n "$PACKAGES" ]; then
  chroot $M sh -c "apt-get update -qq; DEBIAN_FRONTEND=noninteractive apt-get install -y -qq \
    --no-install-recommends $PACKAGES" >/dev/null
fi
chmod 711 $M/root
chroot $M useradd -m -u 1500 -s /bin/bash lab
mkdir -p $M/home/lab/.ssh $M/shared
chroot $M ssh-keygen -q -t ed25519 -N '' -f /home/lab/.ssh/id_ed25519
cp $M/home/lab/.ssh/id_ed25519.pub $M/home/lab/.ssh/authorized_keys
chown -R 1500:1500 $M/home/lab; chmod 700 $M/home/lab/.ssh; chmod 600 $M/home/lab/.ssh/*
printf '127.0.0.1 localhost\n10.77.0.1 h1\n10.77.0.2 h2\n10.77.0.3 laptop\n' > $M/etc/hosts
"""
"""Makes what all hosts have in common; the machine's own files are not touched."""

HOST = r"""
set -e
U=$BASE/up/$NAME; M=$U/m
mount --make-rprivate /; hostname $NAME; mkdir -p $U/u $U/w $M $U/vu $U/vw
mount -t overlay overlay -o lowerdir=$BASE/up/base/u:/,upperdir=$U/u,workdir=$U/w $M
sed -i "/ $NAME\$/d; 1a 127.0.1.1 $NAME" $M/etc/hosts  # as Debian and Ubuntu have it
mount -t tmpfs -o mode=1777 tmpfs $M/tmp
mount -t tmpfs -o mode=755 tmpfs $M/run; mkdir -p $M/run/sshd
mount -t tmpfs -o mode=755 tmpfs $M/dev
for d in null zero full random urandom tty; do touch $M/dev/$d; mount --bind /dev/$d $M/dev/$d; done
mkdir $M/dev/pts $M/dev/shm
mount -t devpts -o newinstance,ptmxmode=666,mode=620 devpts $M/dev/pts; ln -s pts/ptmx $M/dev/ptmx
ln -s /proc/self/fd $M/dev/fd
for k in 0:stdin 1:stdout 2:stderr; do ln -s /proc/self/fd/${k%:*} $M/dev/${k#*:}; done
mount -t tmpfs -o mode=1777,size=3g tmpfs $M/dev/shm
mount -t sysfs sysfs $M/sys; mount -t proc proc $M/proc
mkdir -p $M$ROOT
mount -t tmpfs -o mode=755 tmpfs $M$ROOT  # or modules that were not copied would be found here
mkdir -p $M$VENV $M/home/lab/segsweep
mount -t overlay overlay -o lowerdir=$VENV,upperdir=$U/vu,workdir=$U/vw $M$VENV
p=$VENV; while [ $p != / ]; do chmod o+x $M$p; p=$(dirname $p); done  # other users may pass
ln -s $VENV $M/home/lab/segsweep/.venv
touch -d '+2 days' $M$VENV/.installed  # there is no network from which make could install
chown -h 1500:1500 $M/home/lab/segsweep $M/home/lab/segsweep/.venv
if [ -n "$SHARED" ]; then mkdir -p $M/shared; mount --bind $SHARED $M/shared; fi
mkdir -p $M/old; cd $M; pivot_root . old; cd /; umount -l /old; ip link set lo up
exec env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin TERM=xterm \
  bash -c '/usr/sbin/sshd -D -e & while :; do sleep 3600 & wait $!; done'
"""
"""Runs as a host's first process."""

CONNECT = r"""
set -e
ip link add $NET-$K type veth peer name eth0 netns $PID; ip link set $NET-$K netns $NET
ip netns exec $NET sh -c "ip link set $NET-$K master br0; ip link set $NET-$K up"
nsenter -t $PID -n sh -c "ip addr add 10.77.0.$K/24 dev eth0; ip link set eth0 up"
"""


def lacking() -> str:
    """Return why no hosts can be made here; '' if they can."""
    if os.geteuid() != 0:
        return "hosts need root"
    if not all(map(shutil.which, ("unshare", "nsenter", "ip", "mount"))):
        return "hosts need unshare, nsenter, ip and mount"
    tried = subprocess.run(
        ["unshare", "-n", "-p", "-m", "-u", "--fork", "true"], capture_output=True, check=False
    )
    return "" if tried.returncode == 0 else "this machine does not allow namespaces"


def check_hosts() -> None:
    """Skip a test where no hosts can be made; fail it where they must be (SEGSWEEP_HOSTS=1)."""
    if reason := lacking():
        if os.environ.get("SEGSWEEP_HOSTS"):
            pytest.fail(f"SEGSWEEP_HOSTS is set, but {reason}")
        pytest.skip(reason)


def lab_yaml() -> bytes:
    """Return deploy/local.yaml with the addresses of the hosts, as a user enters them."""
    text = (ROOT / "deploy" / "local.yaml").read_text()
    for before, after in (("192.0.2.1 ", "10.77.0.1 "), ("[192.0.2.2] ", "[10.77.0.2] ")):
        assert before in text
        text = text.replace(before, after)
    return text.encode()


def up(hosts: Hosts) -> None:
    """Start the cluster of deploy/lab.yaml from the laptop; both nodes have joined."""
    command = "cd segsweep && make cluster-up CLUSTER=deploy/lab.yaml"
    done = hosts.run("laptop", command, seconds=400)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    both = "2 local.cluster.node"
    wait = f"for k in $(seq 90); do ray status | grep -q '{both}' && break; sleep 1; done"
    seen = hosts.run("h1", f"{wait}; ray status")
    assert both in seen.stdout, seen.stdout + seen.stderr


class Hosts:
    """Three hosts, two of which see `shared` as /shared.

    Parameters
    ----------
    base : Path
        An empty folder.
    shared : Path
    packages : sequence of str
        Further packages of Debian that all hosts have.
    own_core : bool
        Whether h1 computes on the first core only, and h2 on the second one.
    """

    def __init__(
        self, base: Path, shared: Path, packages: Sequence[str] = (), *, own_core: bool = False
    ) -> None:
        self.base, self.shared, self.packages = base, shared, packages
        self.core = {"h1": "0", "h2": "1"} if own_core else {}
        self.network = f"seg{os.getpid() % 100_000}"
        self.pids: dict[str, int] = {}
        self.outer: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        """Make the hosts; ssh answers on all of them."""
        self._shell(BASE_LAYER, PACKAGES=" ".join(self.packages))
        self._shell(
            "ip netns add $NET; ip netns exec $NET sh -c 'ip link set lo up; "
            "ip link add br0 type bridge; ip link set br0 up'"
        )
        for number, name in enumerate(NAMES, 1):
            own = {"NAME": name, "SHARED": "" if name == "laptop" else str(self.shared)}
            with open(self.base / f"{name}.log", "wb") as log:
                words = ["unshare", "-n", "-p", "-m", "-u", "--fork", "--kill-child"]
                process = subprocess.Popen(
                    [*self._pinned(name), *words, "bash", "-c", HOST],
                    env=self._environment(own),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
            self.outer.append(process)
            self.pids[name] = self._first_process(process.pid)
            self._shell(CONNECT, PID=str(self.pids[name]), K=str(number))
        for name in NAMES:
            self._wait_for_ssh(name)

    def copy_project(self, name: str) -> None:
        """Copy the project's files into the home folder of a host's user, as a clone would."""
        words = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        files = subprocess.run(words, cwd=ROOT, capture_output=True, check=True).stdout
        there = [name for name in files.split(b"\0") if name and (ROOT / name.decode()).exists()]
        packed = subprocess.run(
            ["tar", "--null", "-T", "-", "-cf", "-"],
            cwd=ROOT,
            input=b"\0".join(there),
            capture_output=True,
            check=True,
        ).stdout
        home = "/home/lab/segsweep"
        words = [*self._enter(name), "sh", "-c", f"cd {home} && tar xf - && chown -R -h lab ."]
        subprocess.run(words, input=packed, check=True)

    def write(self, name: str, path: str, content: bytes) -> None:
        """Write a file as a host's user."""
        words = [*self._enter(name), "su", "-", "lab", "-c", f"cat > {path}"]
        subprocess.run(words, input=content, check=True)

    def run(
        self, name: str, command: str, *, seconds: float = 120
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in a shell of a host's user, as one has it after ssh."""
        shell = shlex.join(["bash", "-lic", command])
        return subprocess.run(
            [*self._enter(name), "su", "-", "lab", "-c", shell],
            capture_output=True,
            text=True,
            timeout=seconds,
            stdin=subprocess.DEVNULL,
            check=False,
        )

    def administer(self, name: str, command: str, *, seconds: float = 60) -> str:
        """Run a command in a shell of a host's root; return what it printed.

        Raises
        ------
        RuntimeError
            When it fails.
        """
        done = subprocess.run(
            [*self._enter(name), "bash", "-c", command],
            capture_output=True,
            text=True,
            timeout=seconds,
            stdin=subprocess.DEVNULL,
            check=False,
        )
        if done.returncode != 0:
            raise RuntimeError(f"{name}: {command}: {(done.stdout + done.stderr)[-1000:]}")
        return done.stdout

    def kill(self, name: str) -> None:
        """End a host with all its processes, as a power cut does."""
        os.kill(self.pids.pop(name), signal.SIGKILL)

    def stop(self) -> None:
        """End all hosts and remove what they used."""
        for name in list(self.pids):
            self.kill(name)
        for process in self.outer:
            process.wait(timeout=20)
        self._shell("ip netns del $NET 2>/dev/null || true; umount -l $BASE/up || true")

    def _environment(self, more: dict[str, str]) -> dict[str, str]:
        known = {"BASE": str(self.base), "VENV": str(VENV), "NET": self.network}
        known["ROOT"] = str(VENV.parent)
        return {**os.environ, **known, **more}

    def _shell(self, script: str, **more: str) -> None:
        done = subprocess.run(
            ["bash", "-c", script],
            env=self._environment(more),
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise RuntimeError(f"hosts cannot be made: {done.stderr.strip()[-500:]}")

    def _enter(self, name: str) -> list[str]:
        return [*self._pinned(name), "nsenter", "-t", str(self.pids[name]), "-a", "--"]

    def _pinned(self, name: str) -> list[str]:
        return ["taskset", "-c", self.core[name]] if name in self.core else []

    @staticmethod
    def _first_process(outer: int) -> int:
        children = Path(f"/proc/{outer}/task/{outer}/children")
        for _ in range(100):
            if found := children.read_text().split():
                return int(found[0])
            time.sleep(0.1)
        raise RuntimeError("a host did not start")

    def _wait_for_ssh(self, name: str) -> None:
        log = self.base / f"{name}.log"
        for _ in range(100):
            if "Server listening" in log.read_text(errors="replace"):
                return
            time.sleep(0.1)
        raise RuntimeError(f"{name} has no ssh server: {log.read_text(errors='replace')[-500:]}")
