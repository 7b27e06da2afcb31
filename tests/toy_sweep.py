"""The toy benchmark as a Hydra application for sweeps over `cells`; the counterpart of `s2robot.cli.cells`."""

from __future__ import annotations

from pathlib import Path

import hydra
from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, DictConfig
from toy_benchmark import run_toys, toy_config

ConfigStore.instance().store(name="toy", node={"output": MISSING, "cells": None, "hydra": {"sweep": {"dir": "sweep"}}})


@hydra.main(config_path=None, config_name="toy", version_base="1.3")
def main(settings: DictConfig) -> None:
    """Run the cell that `cells` names."""
    run_toys(toy_config(Path(settings.output), cells=settings.cells))


if __name__ == "__main__":
    main()
