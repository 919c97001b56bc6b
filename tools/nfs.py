"""Two Linux kernels as processes of this machine, which share a folder over a real NFS, to try it.

    python tools/nfs.py start FOLDER          # FOLDER keeps their state; it must not be there yet
    python tools/nfs.py run FOLDER a COMMAND  # in the working directory, with the command's status
    python tools/nfs.py kill FOLDER b         # as if its power were cut
    python tools/nfs.py stop FOLDER

They are the nodes a and b, User-Mode Linux of one processor each. Both see the files of this
machine, Python and the checkout among them, and cannot write them; TMPDIR is a folder of their own.
Node a serves an ext4 disk to itself and to node b. Each mounts it twice with the default options:
$NFS4 is its folder by NFS 4.2, $NFS3 by NFS 3. The server forgets a dead node's locks after 10
seconds, not 90. They need Debian's packages:

    apt-get install -y --no-install-recommends user-mode-linux busybox-static nfs-kernel-server

Status 3 of `start` says in one line which of them is missing.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

MISSING = 3
GONE = 255  # status of a command whose node ended
NODES = ("a", "b")
PROGRAMS = {
    "linux.uml": "user-mode-linux",
    "busybox": "busybox-static",
    "rpc.nfsd": "nfs-kernel-server",
    "rpcbind": "rpcbind",
    "mount.nfs": "nfs-common",
    "mkfs.ext4": "e2fsprogs",
}
MODULES = Path("/usr/lib/uml/modules")
NEEDED = ("nfsd", "nfsv3", "nfsv4")
PATH = f"{os.environ['PATH']}:/usr/sbin:/sbin"
MEMORY, DISK = "1024M", 4 * 2**30  # of each node; of node a, bytes that are taken when written
SECONDS = 60  # until both nodes are up
PAUSE = 0.02  # seconds between two looks for a command or its end

# What a node runs, with its name and the folder of its state as arguments.
INIT = """#!/bin/sh
export PATH={path}
bb() {{ busybox "$@"; }}
node=$1 home=$2
mount -t proc none /proc
mount -t sysfs none /sys
ln -s /proc/self/fd /dev/fd
mkdir /dev/shm
for folder in /dev/shm /run /var/lib/nfs; do mount -t tmpfs none $folder; done
mkdir -p /run/tmp /run/nfs3 /run/nfs4 /run/disk /run/host /run/rpcbind
mkdir -p /var/lib/nfs/sm /var/lib/nfs/sm.bak
mount -t hostfs -o $home/$node none /run/host
for module in {modules}; do bb insmod $module; done
bb hostname $node
bb ip link set lo up
bb ip link set vec0 up
[ $node = a ] && address=10.0.0.1 || address=10.0.0.2
bb ip address add $address/24 dev vec0
rpcbind
bb sysctl -qw fs.nfs.nlm_timeout=3  # locks can be had so many seconds after the server's start
rpc.statd
if [ $node = a ]; then
  mkfs.ext4 -q /dev/ubda
  mount -t ext4 /dev/ubda /run/disk
  mount -t nfsd none /proc/fs/nfsd
  echo 10 >/proc/fs/nfsd/nfsv4leasetime
  echo 10 >/proc/fs/nfsd/nfsv4gracetime
  touch /var/lib/nfs/etab /var/lib/nfs/rmtab
  exportfs -i -o rw,no_root_squash,no_subtree_check,fsid=0 10.0.0.0/24:/run/disk
  rpc.mountd
  rpc.nfsd 8
  echo Y >/proc/fs/nfsd/v4_end_grace
fi
until mount -t nfs -o vers=4.2 10.0.0.1:/ /run/nfs4; do sleep 0.2; done
until mount -t nfs -o vers=3 10.0.0.1:/run/disk /run/nfs3; do sleep 0.2; done
cd /run/host
touch up
while :; do
  for job in *.job; do
    [ -e $job ] || continue
    mv $job $job.sh
    (
      sh $job.sh >$job.out 2>&1 </dev/null
      echo $? >$job.tmp
      mv $job.tmp $job.status
    ) &
  done
  bb usleep 100000
done
"""


class MissingError(Exception):
    """What this machine lacks, and how to get it."""


def check() -> None:
    """Refuse where something is missing."""
    lost = [package for name, package in PROGRAMS.items() if shutil.which(name, path=PATH) is None]
    if lost:
        raise MissingError(f"apt-get install -y --no-install-recommends {' '.join(lost)}")


def modules() -> list[str]:
    """Files of the kernel's modules that NFS needs, each after those that it needs itself."""
    (folder,) = MODULES.iterdir()
    needs = {}
    for line in (folder / "modules.dep").read_text().splitlines():
        file, _, others = line.partition(":")
        needs[Path(file).name.removesuffix(".ko")] = [file, *others.split()]
    found = dict.fromkeys(file for name in NEEDED for file in reversed(needs[name]))
    return [str(folder / file) for file in found]


def start(folder: Path) -> None:
    """Bring both nodes up."""
    check()
    folder.mkdir(parents=True)
    folder = folder.absolute()
    (folder / "init").write_text(INIT.format(path=PATH, modules=" ".join(modules())))
    (folder / "init").chmod(0o755)
    wire = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    for node, end in zip(NODES, wire, strict=True):
        (folder / node).mkdir()
        with (folder / f"{node}.disk").open("wb") as file:
            file.truncate(DISK)
        command = [
            *("linux.uml", f"mem={MEMORY}", "root=none", "rootfstype=hostfs", "ro"),
            *("con0=null,fd:1", "con=null", "ssl=null", "quiet", f"init={folder}/init"),
            *(f"vec0:transport=fd,fd={end.fileno()}", f"ubda={folder}/{node}.disk"),
            *("--", node, folder),
        ]
        with (folder / f"{node}.log").open("wb") as log:
            kernel = subprocess.Popen(
                command,
                stdin=-3,
                stdout=log,
                stderr=log,
                pass_fds=[end.fileno()],
                start_new_session=True,
                env={"PATH": PATH, "TMPDIR": str(folder), "HOME": str(folder)},
            )
        (folder / f"{node}.pid").write_text(str(kernel.pid))
    deadline = time.monotonic() + SECONDS
    while not all((folder / node / "up").exists() for node in NODES):
        if time.monotonic() > deadline:
            for node in NODES:
                kill(folder, node)
            sys.exit(f"error: the nodes did not come up; see {folder}/a.log and b.log")
        time.sleep(PAUSE)


def run(folder: Path, node: str, command: list[str]) -> int:
    """Run a command in the working directory on a node, and print what it says at its end.

    Returns:
        Its status.
    """
    folder = folder / node
    name = f"{os.getpid()}-{time.monotonic_ns()}"
    lines = [
        f"export NFS4=/run/nfs4 NFS3=/run/nfs3 TMPDIR=/run/tmp HOME=/run PATH={shlex.quote(PATH)}",
        f"cd {shlex.quote(os.getcwd())} && exec {shlex.join(command)}",
    ]
    new, status = folder / f"{name}.new", folder / f"{name}.job.status"
    new.write_text("\n".join(lines))
    new.rename(folder / f"{name}.job")
    while not status.exists():
        if not alive(folder.parent, node):
            print(f"error: node {node} has ended", file=sys.stderr)
            return GONE
        time.sleep(PAUSE)
    sys.stdout.buffer.write((folder / f"{name}.job.out").read_bytes())
    return int(status.read_text())


def alive(folder: Path, node: str) -> bool:
    """Whether a node is there."""
    try:
        pid = int((folder / f"{node}.pid").read_text())
        return "linux.uml" in Path(f"/proc/{pid}/cmdline").read_text()
    except FileNotFoundError:
        return False


def kill(folder: Path, node: str) -> None:
    """End a node at once, as if its power were cut."""
    if alive(folder, node):
        os.killpg(int((folder / f"{node}.pid").read_text()), signal.SIGKILL)
        while alive(folder, node):
            time.sleep(PAUSE)


def main() -> None:
    """Start, run, kill or stop."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("action", choices=["start", "run", "kill", "stop"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("node", nargs="?", choices=NODES)
    parser.add_argument("command", nargs=argparse.REMAINDER)
    options = parser.parse_args()
    if options.action == "start":
        try:
            start(options.folder)
        except MissingError as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(MISSING)
    elif options.action == "run":
        sys.exit(run(options.folder, options.node, options.command))
    elif options.action == "kill":
        kill(options.folder, options.node)
    else:
        for node in NODES:
            kill(options.folder, node)
        shutil.rmtree(options.folder)


if __name__ == "__main__":
    main()
