"""The cost of not batching on a CPU: CPU time per environment, alone and in batches, and whether the results are equal.

Run: python benchmarks/batch_rows.py [--threads 1]

Prints Markdown tables; takes some minutes. It measures CPU time, not wall time, so that other processes matter less.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from torch import Tensor

from s2robot import S2Encoder
from s2robot.config import PolicyConfig, ReadoutConfig
from s2robot.interfaces import FeatureShape, Observation, PolicySpec
from s2robot.policies import make_policy
from s2robot.policies.bc import BCConfig
from s2robot.policies.diffusion_unet import DiffusionUNetConfig

BATCHES = (1, 2, 4)
ENVIRONMENTS = 4


def rows(run: Callable[[int, int], Tensor]) -> str:
    """Return milliseconds per row for every batch size, with `=` if results equal those of single rows bit for bit."""
    cells, single = [], None
    for batch in BATCHES:
        run(0, batch)
        start = time.process_time()
        result = torch.cat([run(first, first + batch) for first in range(0, ENVIRONMENTS, batch)])
        milliseconds = 1000 * (time.process_time() - start) / ENVIRONMENTS
        single = result if single is None else single
        difference = (result - single).abs().max().item()
        cells.append(f"{milliseconds:.1f} ({'=' if difference == 0 else f'{difference:.0e}'})")
    return " | ".join(cells)


def encoder_row(scales: tuple[int, ...], engine: str, precision: str) -> str:
    encoder = S2Encoder("efficientnet_lite0", scales, engine=engine, precision=precision)
    images = torch.randint(0, 256, (ENVIRONMENTS, 448, 448, 3), generator=torch.Generator().manual_seed(0))
    images = images.to(torch.uint8)
    return rows(lambda first, last: encoder(images[first:last]).map)


def policy_row(config: PolicyConfig) -> str:
    shape = FeatureShape(channels=640, height=7, width=7)
    spec = PolicySpec({"agentview": shape, "robot0_eye_in_hand": shape}, proprioception_width=9, action_width=7)
    torch.manual_seed(0)
    policy = make_policy(config, ReadoutConfig(), spec).eval()
    policy.fit_normalization([torch.randn(50, 7).numpy()], [torch.randn(50, 9).numpy()])
    steps = config.observation_steps
    features = {camera: torch.rand(ENVIRONMENTS, steps, shape.numel).half() for camera in spec.features}
    proprioception, past = torch.randn(ENVIRONMENTS, steps, 9), torch.zeros(ENVIRONMENTS, steps, 7)

    def act(first: int, last: int) -> Tensor:
        cut = {camera: values[first:last] for camera, values in features.items()}
        generators = [torch.Generator().manual_seed(row) for row in range(first, last)]
        return policy.act(Observation(cut, proprioception[first:last], past[first:last]), generators)

    return rows(act)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    torch.set_num_threads(parser.parse_args().threads)
    head = " | ".join(f"batches of {batch}" for batch in BATCHES)
    print(f"CPU milliseconds per environment (largest difference from single rows)\n\n| | {head} |")
    print("|---" * (1 + len(BATCHES)) + "|")
    for scales in ((224,), (224, 448)):
        for engine, precision in (("eager", "bf16"), ("openvino", "fp32")):
            row = encoder_row(scales, engine, precision)
            print(f"| efficientnet_lite0 {scales} {engine} {precision} | {row} |", flush=True)
    print(f"| bc | {policy_row(BCConfig())} |", flush=True)
    unet = DiffusionUNetConfig(inference_steps=4, sampler="ddim")
    print(f"| diffusion_unet, 4 steps | {policy_row(unet)} |", flush=True)


if __name__ == "__main__":
    main()
