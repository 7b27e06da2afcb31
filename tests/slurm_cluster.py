"""A SLURM cluster whose one node is this machine, with SLURM's own daemons from Debian's packages:

apt-get install --no-install-recommends slurmctld slurmd slurm-client munge
"""

import os
import pwd
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TypeVar

import pytest

T = TypeVar("T")
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scancel", "sinfo")
# No accounting and no control groups: a job needs neither, and each would be one more service.
SLURM_CONF = """
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} State=UNKNOWN
PartitionName=tests Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


def free_ports(count: int) -> list[int]:
    """Return ports on which nothing listens."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


@contextmanager
def slurm_cluster(folder: Path) -> Iterator[None]:
    """Run SLURM's daemons with their own configuration; yield the environment variables with which programs find them.

    Raises:
        FileNotFoundError: SLURM is not installed, or the user of this process has no name, which SLURM needs.
    """
    path = os.pathsep.join([os.environ["PATH"], "/usr/sbin"])
    if missing := [program for program in PROGRAMS if not shutil.which(program, path=path)]:
        raise FileNotFoundError(f"SLURM is not installed: no {', '.join(missing)}")
    for name in ("state", "spool"):
        (folder / name).mkdir()
    key = folder / "munge.key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o600)
    conf = folder / "slurm.conf"
    user, host, ports = user_name(), socket.gethostname().split(".")[0], free_ports(2)
    conf.write_text(SLURM_CONF.format(folder=folder, host=host, user=user, ports=ports, cpus=processors(path)))
    files = {"key-file": "key", "socket": "socket", "pid-file": "pid", "seed-file": "seed", "log-file": "log"}
    munge = ["munged", "--foreground", "--force", *(f"--{name}={folder}/munge.{end}" for name, end in files.items())]
    daemons = [
        (munge, (folder / "munge.socket").is_socket),
        (["slurmctld", "-D", "-f", str(conf)], lambda: listens(ports[0])),
        (["slurmd", "-D", "-f", str(conf)], lambda: listens(ports[1])),
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", path)
        patch.setenv("SLURM_CONF", str(conf))
        running: list[subprocess.Popen] = []
        try:
            for daemon, ready in daemons:
                log = folder / f"{daemon[0]}.out"
                with log.open("w") as file:
                    running.append(subprocess.Popen(daemon, stdout=file, stderr=subprocess.STDOUT))
                until(lambda: ready() or running[-1].poll() is not None, 120)  # noqa: B023  # called here and now
                assert running[-1].poll() is None, f"{daemon[0]} ended: {log.read_text()}"
            until(lambda: "idle" in output("sinfo", "--noheader", "--format=%T"), 120)
            yield
        finally:
            subprocess.run(["scancel", "--user", user], check=False)  # a failed test may have left some
            for process in reversed(running):
                end(process)


def user_name() -> str:
    """The name of this process's user, whatever the environment variables say."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        raise FileNotFoundError(f"user {os.getuid()} has no name (no entry in /etc/passwd)") from None


def processors(path: str) -> int:
    """Return the number that SLURM finds here; it takes a node out of service if its configuration states more."""
    program = shutil.which("slurmd", path=path)
    told = subprocess.run([program, "-C"], check=False, stdout=subprocess.PIPE, text=True).stdout if program else ""
    found = re.search(r"\bCPUs=(\d+)", told)
    return int(found[1]) if found else os.cpu_count() or 1


def listens(port: int) -> bool:
    """Return whether something on this machine accepts connections at the port."""
    with socket.socket() as one:
        return one.connect_ex(("127.0.0.1", port)) == 0


def end(process: subprocess.Popen) -> None:
    """Ask a process to end, and kill it if it does not."""
    process.terminate()
    try:
        process.wait(timeout=30)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def output(*command: str) -> str:
    """Return what the command prints."""
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def until(condition: Callable[[], T], seconds: float) -> T:
    """Wait until the condition is true; return its value."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"not so after {seconds} s"
        time.sleep(0.1)
    return found
