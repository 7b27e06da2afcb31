"""The same benchmark on Ray with a worker killed, as submitit jobs and on SLURM: the results of the local run.

Run by `make test-clusters`, which installs Ray and Hydra's submitit launcher beside this project.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from slurm_cluster import output, slurm_cluster, until
from test_benchmark_faults import rows as whole_rows
from toy_benchmark import run_toys, toy_config

pytestmark = pytest.mark.integration

TESTS = str(Path(__file__).parent)


def rows(folder: Path) -> list[dict]:
    """The rows without the machine: a cluster gives its workers another number of threads."""
    return [{name: value for name, value in row.items() if name != "machine"} for row in whole_rows(folder)]


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    folder = tmp_path_factory.mktemp("local")
    run_toys(toy_config(folder))
    return folder


@pytest.fixture
def slurm(tmp_path_factory):
    try:
        with slurm_cluster(tmp_path_factory.mktemp("slurm")):
            yield
    except FileNotFoundError as error:
        pytest.skip(str(error))


@pytest.fixture
def cluster(monkeypatch):
    """A Ray cluster of this machine: a head without processors and two nodes with one each."""
    ray = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    paths = os.pathsep.join([TESTS, os.environ.get("PYTHONPATH", "")])
    monkeypatch.setenv("PYTHONPATH", paths)  # workers import the toy
    monkeypatch.setenv("TOY_PAUSE", "0.2")  # so that the kill finds work in progress
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
    monkeypatch.setenv("RAY_ADDRESS", cluster.address)
    yield cluster, nodes
    ray.shutdown()
    cluster.shutdown()


def is_ours(process: int) -> bool:
    """Whether a process descends from this one: others may run a Ray cluster of their own on this machine."""
    while process > 1:
        if process == os.getpid():
            return True
        try:
            process = int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])
        except OSError:  # it ended meanwhile
            return False
    return False


def kill_first_busy_worker(output: Path, killed: list[int]) -> None:
    """Wait until rollouts have begun, then kill a worker that is running a job."""
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline and not killed:
        started = list(output.glob("rollouts/*/*/episodes.jsonl"))
        for process in Path("/proc").glob("[0-9]*") if started else ():
            try:
                name = (process / "cmdline").read_bytes().split(b"\0")[0]
            except OSError:  # it ended meanwhile
                continue
            if name.startswith(b"ray::run_job") and is_ours(int(process.name)):  # its agents are called ray::… too
                os.kill(int(process.name), signal.SIGKILL)
                killed.append(int(process.name))
                return
        time.sleep(0.05)


def test_a_ray_cluster_with_a_worker_killed_gives_the_rows_of_the_local_run(cluster, straight, tmp_path):
    killed: list[int] = []
    killer = threading.Thread(target=kill_first_busy_worker, args=(tmp_path, killed), daemon=True)
    killer.start()
    run_toys(toy_config(tmp_path, engine="ray"))
    killer.join()
    assert killed, "no worker was found at work"
    assert json.loads((tmp_path / "benchmark.json").read_text())["failed"] == []
    assert rows(tmp_path) == rows(straight)


def test_a_node_that_dies_costs_nothing_either(cluster, straight, tmp_path):
    ray_cluster, nodes = cluster

    removed = []

    def remove_node() -> None:
        until(lambda: list(tmp_path.glob("rollouts/*/*/episodes.jsonl")), 240)
        ray_cluster.remove_node(nodes[0], allow_graceful=False)
        removed.append(nodes[0])

    killer = threading.Thread(target=remove_node, daemon=True)
    killer.start()
    run_toys(toy_config(tmp_path, engine="ray"))
    killer.join(timeout=60)
    assert removed, "no node was removed"
    assert rows(tmp_path) == rows(straight)


def sweep(folder: Path, launcher: str) -> subprocess.Popen:
    """The four cells of the toy as jobs, begun."""
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    words = ["-m", "cells=0,1,2,3", f"hydra/launcher={launcher}", f"output={folder}", "hydra.launcher.timeout_min=10"]
    words += ["hydra.launcher.max_num_timeout=1"] if launcher == "submitit_slurm" else []
    script = Path(__file__).with_name("toy_sweep.py")
    paths = os.pathsep.join([TESTS, os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": paths, "TOY_PAUSE": "1"}  # so that a signal finds work in progress
    return subprocess.Popen([sys.executable, script, *words], cwd=folder, env=environment)


def check(folder: Path, straight: Path) -> None:
    """Each job ran its own cell alone, and the command that joins them finds what the local run leaves."""
    assert not (folder / "results.parquet").exists()
    assert len(list(folder.glob("cells/*/results.json"))) == 4
    run_toys(toy_config(folder))
    assert rows(folder) == rows(straight)


def preempt_a_running_job(folder: Path) -> None:
    """Send what SLURM sends a job whose time is up or whose place is wanted; submitit then asks to be queued again."""
    until(lambda: list(folder.glob("rollouts/*/*/episodes.jsonl")), 240)
    running = ["squeue", "--noheader", "--states=RUNNING", "--array", "--format=%i"]
    job = until(lambda: output(*running).split(), 60)[-1]
    restarts = ["squeue", "--noheader", "--states=all", "--array", f"--jobs={job}", "--Format=RestartCnt"]
    with subprocess.Popen(["scancel", "--signal=USR2", job]) as scancel:
        try:
            until(lambda: int(output(*restarts) or 0) > 0, 120)  # SLURM's own count
        finally:
            scancel.kill()  # it would repeat the signal until the job runs again


def test_cells_as_submitit_jobs_leave_what_the_local_run_leaves(straight, tmp_path):
    jobs = sweep(tmp_path, "submitit_local")
    try:
        assert jobs.wait(timeout=600) == 0
    finally:
        jobs.kill()
    check(tmp_path, straight)


def test_cells_as_slurm_jobs_one_of_them_preempted_leave_what_the_local_run_leaves(slurm, straight, tmp_path):
    jobs = sweep(tmp_path, "submitit_slurm")
    try:
        preempt_a_running_job(tmp_path)
        assert jobs.wait(timeout=600) == 0
    finally:
        jobs.kill()
    check(tmp_path, straight)
