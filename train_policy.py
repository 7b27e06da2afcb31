"""Train a policy on demonstrations, over features of a frozen S² encoder.

    python train_policy.py dataset=demos/lift.hdf5 encoder=efficientnet_lite0 'encoder.scales=[224,448]' policy=bc

`--help` lists every setting and choice; `accelerate launch train_policy.py …` trains in several processes.
"""

from __future__ import annotations

import os
import sys

import hydra
from omegaconf import DictConfig

# Must be set before torch loads OpenMP: by default idle threads spin, and as soon as another process is busy that makes
# everything about ten times slower.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from s2robot.cli.choices import register_choices
from s2robot.cli.closing import describe_checkpoint, train_checked
from s2robot.cli.faults import explain
from s2robot.cli.words import prepare_arguments
from s2robot.config import CONFIG_DIR, resolve
from s2robot.interfaces import S2RobotError

register_choices()


@hydra.main(config_path=str(CONFIG_DIR), config_name="train_policy", version_base="1.3")
def main(settings: DictConfig) -> None:
    """Hydra application: demonstrations → frozen S² features → policy → checkpoint."""
    rank = int(os.environ.get("RANK", "0"))  # set by `accelerate launch`, which starts several processes
    try:
        checkpoint = train_checked(resolve(settings))
    except Exception as error:
        told = str(error) if isinstance(error, S2RobotError) else explain(error)
        if told is None:
            raise
        sys.exit(f"error in process {rank}: {told}" if rank else f"error: {told}")
    if not rank:
        print(describe_checkpoint(checkpoint))


if __name__ == "__main__":
    try:
        prepare_arguments("train_policy")
    except S2RobotError as error:
        sys.exit(f"error: {error}")
    main()
