"""Round-trip time of the inference server over the loopback interface: the table of docs/deployment.md.

Run: python benchmarks/server.py [--checkpoint DIR] [--sizes 224 448] [--clients 1 2] [--requests 100] [--device cpu]
         [--engine openvino]
Writes benchmarks/results/server_<device>.md. About 2 minutes on two cores.

Server and clients are separate processes. A request is one observation (two cameras) after a whole chunk has been
executed, for a policy that looks at one step. Without --checkpoint the policy is an untrained `bc` on
efficientnet_lite0 {224, 448}, because weights do not change the time. The columns:

- `compute`: the server's time for encoder and policy.
- `serialise`: packing and unpacking of request and answer, on both sides.
- `rest`: the remainder of the round trip: sockets, the event loop, and waiting for the other client's computation.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
from websockets.sync.client import connect

from s2robot.deployment.client import MAX_MESSAGE, pack, unpack

ROOT = Path(__file__).parents[1]
CAMERAS = ("agentview", "wrist")
WARM_UP = 3
HEADER = ["image", "clients", "round trip ms", "p95 ms", "compute ms", "serialise ms", "rest ms", "request kB"]


def untrained_checkpoint(folder: Path) -> Path:
    """Make a checkpoint of an untrained bc policy on the default encoder, with two cameras at 448 pixels."""
    import torch

    from s2robot import S2Encoder
    from s2robot.checkpoint import Checkpoint, save_checkpoint
    from s2robot.config import EncoderConfig, ReadoutConfig, TrainConfig
    from s2robot.interfaces import PolicySpec
    from s2robot.policies import make_policy
    from s2robot.policies.bc import BCConfig

    torch.manual_seed(0)
    config = TrainConfig(dataset="none", output="none", encoder=EncoderConfig(), policy=BCConfig())
    encoder = S2Encoder(config.encoder.backbone, config.encoder.scales)
    spec = PolicySpec(dict.fromkeys(CAMERAS, encoder.feature_shape(448, 448)), proprioception_width=9, action_width=7)
    policy = make_policy(config.policy, ReadoutConfig(), spec)
    checkpoint = Checkpoint(
        config=config,
        spec=spec,
        environment={"image_size": 448},
        proprioception=["robot0_eef_pos", "robot0_gripper"],
        fingerprints={"encoder": encoder.fingerprint()},
        demonstrations=0,
        loss_curve=[],
        command="benchmarks/server.py",
    )
    save_checkpoint(folder, policy.state_dict(), checkpoint)
    return folder


@contextmanager
def serving(checkpoint: Path, options: argparse.Namespace) -> Iterator[str]:
    """The URL of a server process."""
    words = [f"checkpoint={checkpoint}", "port=0", f"device={options.device}"]
    words += [f"engine={options.engine}"] if options.engine else []
    command = [sys.executable, "-m", "s2robot.cli", "serve", *words]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    try:
        for line in server.stderr or ():
            if found := re.search(r"ws://\S+", line):
                yield found.group()
                return
            print(line, end="", file=sys.stderr)
        raise SystemExit("the server ended before it served")
    finally:
        server.terminate()
        server.wait(20)


def observe(info: dict[str, Any], size: int, seed: int) -> dict[str, np.ndarray]:
    """Return noise in the shape of the policy's observations."""
    rng = np.random.default_rng(seed)
    seen = {f"{camera}_image": rng.integers(0, 256, (size, size, 3), dtype=np.uint8) for camera in info["cameras"]}
    first, *others = info["proprioception"] or [None]
    widths = {first: info["proprioception_width"] - len(others), **dict.fromkeys(others, 1)}
    return {**seen, **{key: np.zeros(width, np.float32) for key, width in widths.items() if key is not None}}


def ask(url: str, size: int, requests: int, seed: int) -> list[dict[str, float]]:
    """Run one client; return the seconds of the round trip, the server's computation and serialising, per request."""
    rows = []
    with connect(url, compression=None, max_size=MAX_MESSAGE, proxy=None) as connection:
        info = unpack(connection.recv())
        steps, chunk, width = info["observation_steps"], info["execute_steps"], info["action_width"]
        connection.send(pack({"type": "reset", "seed": seed}))
        connection.recv()
        for index in range(WARM_UP + requests):
            known = min(steps, chunk) if index else 1
            message = {
                "type": "act",
                "observations": [observe(info, size, seed + index)] * known,
                "executed": np.zeros((min(steps, chunk) if index else 0, width), np.float32),
                "steps": chunk if index else 0,
            }
            start = time.perf_counter()
            request = pack(message)
            packed = time.perf_counter()
            connection.send(request)
            reply = connection.recv()
            received = time.perf_counter()
            answer = unpack(reply)
            end = time.perf_counter()
            if answer["type"] != "actions":
                raise SystemExit(f"the server answered {answer}")
            unpack(request)  # repeats the server's unpacking and packing, to time it
            pack(answer)
            there = time.perf_counter() - end
            rows.append(
                {
                    "total": end - start,
                    "compute": answer["seconds"],
                    "serialise": packed - start + end - received + there,
                    "bytes": float(len(request)),
                }
            )
    return rows[WARM_UP:]


def measure(url: str, size: int, clients: int, requests: int) -> list[str]:
    """Return one line of the table."""
    with ProcessPoolExecutor(clients, mp_context=get_context("spawn")) as pool:
        futures = [pool.submit(ask, url, size, requests, 1000 * seed) for seed in range(clients)]
        rows = [row for future in futures for row in future.result()]
    totals = sorted(row["total"] for row in rows)
    middle = {name: statistics.median(row[name] for row in rows) for name in ("compute", "serialise")}
    rest = statistics.median(row["total"] - row["compute"] - row["serialise"] for row in rows)
    p95 = totals[min(len(totals) - 1, int(0.95 * len(totals)))]
    times = (statistics.median(totals), p95, middle["compute"], middle["serialise"], rest)
    return [f"{size}", f"{clients}", *(f"{1000 * value:.1f}" for value in times), f"{rows[0]['bytes'] / 1000:.0f}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--sizes", type=int, nargs="+", default=[224, 448])
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--requests", type=int, default=100, help="per client")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--engine", default=None)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = options.checkpoint or untrained_checkpoint(Path(folder) / "checkpoint")
        with serving(checkpoint, options) as url:
            lines = [
                measure(url, size, clients, options.requests) for size in options.sizes for clients in options.clients
            ]
    table = "\n".join("| " + " | ".join(line) + " |" for line in [HEADER, ["---"] * len(HEADER), *lines])
    where = f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    report = f"`python {' '.join(sys.argv)}`\n\n{table}\n\nMedians over {options.requests} requests a client; {where}\n"
    path = ROOT / f"benchmarks/results/server_{options.device}.md"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(report)
    print(report)


if __name__ == "__main__":
    main()
