"""The same benchmark on a Ray cluster with a worker killed, and as submitit jobs: the results of the local run.

Run by `make test-ray`, which installs Ray and Hydra's submitit launcher beside this project.
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
from test_benchmark_faults import rows
from toy_benchmark import run_toys, toy_config

pytestmark = pytest.mark.integration

TESTS = str(Path(__file__).parent)


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    folder = tmp_path_factory.mktemp("local")
    run_toys(toy_config(folder))
    return folder


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
            if name.startswith(b"ray::run_job"):  # its agents are called ray::… too
                os.kill(int(process.name), signal.SIGKILL)
                killed.append(int(process.name))
                return
        time.sleep(0.05)


def test_a_ray_cluster_with_a_worker_killed_gives_the_rows_of_the_local_run(cluster, straight, tmp_path):
    killed: list[int] = []
    killer = threading.Thread(target=kill_first_busy_worker, args=(tmp_path, killed))
    killer.start()
    run_toys(toy_config(tmp_path, engine="ray"))
    killer.join()
    assert killed, "no worker was found at work"
    assert json.loads((tmp_path / "benchmark.json").read_text())["failed"] == []
    assert rows(tmp_path) == rows(straight)


def test_a_node_that_dies_costs_nothing_either(cluster, straight, tmp_path):
    ray_cluster, nodes = cluster

    def remove_node() -> None:
        while not list(tmp_path.glob("rollouts/*/*/episodes.jsonl")):
            time.sleep(0.05)
        ray_cluster.remove_node(nodes[0], allow_graceful=False)

    killer = threading.Thread(target=remove_node)
    killer.start()
    run_toys(toy_config(tmp_path, engine="ray"))
    killer.join()
    assert rows(tmp_path) == rows(straight)


def test_cells_as_submitit_jobs_leave_what_the_local_run_leaves(straight, tmp_path):
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    words = [
        "-m",
        "cells=0,1,2,3",
        "hydra/launcher=submitit_local",
        f"output={tmp_path}",
        "hydra.launcher.timeout_min=10",
    ]
    script = Path(__file__).with_name("toy_sweep.py")
    environment = {**os.environ, "PYTHONPATH": TESTS}
    subprocess.run([sys.executable, script, *words], check=True, cwd=tmp_path, env=environment)
    assert not (tmp_path / "results.parquet").exists()  # each job ran its own cell alone
    assert len(list(tmp_path.glob("cells/*/results.json"))) == 4
    run_toys(toy_config(tmp_path))
    assert rows(tmp_path) == rows(straight)
