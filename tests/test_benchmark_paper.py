"""The paper's own experiment, end to end, on checkpoints of MVP's layout with RANDOM weights and one block each.

It shows that the configuration runs; its success rates mean nothing.
"""

import dataclasses
import json

import pytest
import timm
import torch
from test_backbones import sine_cosine_positions
from toy_benchmark import run_toys

from s2robot.backbones.table import BACKBONES
from s2robot.benchmark.arms import make_arms
from s2robot.benchmark.controls import encoder_cost
from s2robot.cli.words import compose

WORDS = ["+experiment=s2_paper", "device=cpu", "episodes=2", "training_seeds=[0]", "training.epochs=1", "videos=0"]


@pytest.fixture
def weights(tmp_path, monkeypatch):
    """A folder with `mvp_base.pth` and `mvp_large.pth` as MVP writes them, and the table's models cut to one block."""
    for name, size, width, side in (("mvp_base", "base", 768, 14), ("mvp_large", "large", 1024, 16)):
        spec = BACKBONES[name]
        shallow = {**spec.model_kwargs, "depth": 1}
        monkeypatch.setitem(BACKBONES._own, name, dataclasses.replace(spec, model_kwargs=shallow))
        torch.manual_seed(3)
        model = timm.create_model(f"vit_{size}_patch16_224", num_classes=0, **shallow)
        model.pos_embed.data = sine_cosine_positions(width, side)
        decoder = {"mask_token": torch.zeros(1, 1, 512), "decoder_embed.weight": torch.zeros(512, width)}
        torch.save({"model": {**model.state_dict(), **decoder}}, tmp_path / f"{name}.pth")
    return tmp_path


def test_the_arms_cost_what_the_paper_says():
    arms = make_arms(compose("benchmark", ["+experiment=s2_paper"]))
    costs = {arm.label: encoder_cost(arm.encoder).gmacs for arm in arms}
    assert costs["mvp_base {224}"] == pytest.approx(17.5, abs=0.1)  # Table 10
    assert costs["mvp_base {224, 448}"] == pytest.approx(87.9, abs=0.2)
    assert costs["mvp_large {224} MVP-L"] == pytest.approx(61.6, abs=0.3)


@pytest.mark.slow  # half a minute of processor time
def test_the_papers_experiment_runs_on_checkpoints_of_mvps_layout(weights, tmp_path):
    config = compose("benchmark", [*WORDS, f"output={tmp_path}/out", f"encoder.weights={weights}"])
    assert config.policy.name == "bc_transformer"
    assert (config.policy.observation_steps, config.policy.action_steps) == (16, 16)
    assert config.task_list[0].demonstrations == 120
    config.tasks[0] |= {"demonstrations": 2, "variant": {"length": 16}}
    run_toys(config)
    document = json.loads((tmp_path / "out" / "benchmark.json").read_text())
    assert document["failed"] == []
    assert len(document["cells"]) == 4
    text = (tmp_path / "out" / "report" / "report.md").read_text()
    for name in ("MVP-B-S² against MVP-B", "MVP-B-S² against MVP-L", "as in the paper, against MVP-B"):
        assert name in text
    assert "not both arms have results" not in text
