"""A SLURM cluster of one node, this machine, of SLURM's own daemons as Debian packages them:

apt-get install --no-install-recommends slurmctld slurmd slurm-client munge
"""

import getpass
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scancel", "sinfo")
# No accounting, and no control groups: neither is needed to run a job, and each is a service of its own.
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
    """Ports that nothing listens to."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


@contextmanager
def slurm_cluster(folder: Path) -> Iterator[None]:
    """SLURM's daemons with a configuration of their own, and the environment variables that lead its programs to them.

    Raises:
        FileNotFoundError: SLURM is not installed.
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
    user, host = getpass.getuser(), socket.gethostname().split(".")[0]
    conf.write_text(SLURM_CONF.format(folder=folder, host=host, user=user, ports=free_ports(2), cpus=os.cpu_count()))
    files = {"key-file": "key", "socket": "socket", "pid-file": "pid", "seed-file": "seed", "log-file": "log"}
    daemons = [
        ["munged", "--foreground", "--force", *(f"--{name}={folder}/munge.{end}" for name, end in files.items())],
        ["slurmctld", "-D", "-f", str(conf)],
        ["slurmd", "-D", "-f", str(conf)],
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", path)
        patch.setenv("SLURM_CONF", str(conf))
        running: list[subprocess.Popen] = []
        try:
            for daemon in daemons:
                with (folder / f"{daemon[0]}.out").open("w") as log:
                    running.append(subprocess.Popen(daemon, stdout=log, stderr=subprocess.STDOUT))
                time.sleep(1)
            until(lambda: "idle" in output("sinfo", "--noheader", "--format=%T"), 30)
            yield
        finally:
            subprocess.run(["scancel", "--user", user], check=False)  # a failed test may have left some
            for process in reversed(running):
                process.terminate()
                process.wait(timeout=30)


def output(*command: str) -> str:
    """What the command prints."""
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def until(condition: Callable[[], object], seconds: float) -> None:
    """Wait for the condition."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not so after {seconds} s"
        time.sleep(0.1)
