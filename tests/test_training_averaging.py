"""The average of the weights and the learning-rate schedules give the bits of diffusers, which is not imported."""

import subprocess
import sys

import pytest
import torch
from diffusers.optimization import get_constant_schedule_with_warmup, get_cosine_schedule_with_warmup
from diffusers.training_utils import EMAModel
from torch import nn

from s2robot.config import TrainingConfig
from s2robot.training.averaging import MovingAverage
from s2robot.training.optimization import make_schedule


def walk(steps):
    """Parameters that change at every step, the second without a gradient."""
    random = torch.Generator().manual_seed(0)
    parameters = [nn.Parameter(torch.randn(31, generator=random)) for _ in range(2)]
    parameters[1].requires_grad_(False)
    for _ in range(steps):
        for parameter in parameters:
            parameter.data += torch.randn(31, generator=random)
        yield parameters


def diffusers_average(parameters, power, max_decay):
    return EMAModel(parameters, decay=max_decay, use_ema_warmup=True, power=power)


@pytest.mark.parametrize("power", [0.5, 0.75, 1.0])
@pytest.mark.parametrize("max_decay", [0.0, 0.9, 0.9999])
def test_average_has_the_bits_of_diffusers(power, max_decay):
    mine = theirs = None
    for parameters in walk(100):
        mine = mine or MovingAverage(parameters, power, max_decay)
        theirs = theirs or diffusers_average(parameters, power, max_decay)
        mine.step(parameters)
        theirs.step(parameters)
        for own, other in zip(mine.state_dict()["shadow_params"], theirs.shadow_params, strict=True):
            assert torch.equal(own, other)


def test_average_continues_from_what_diffusers_saved():
    steps = list(walk(1))
    mine, theirs = MovingAverage(steps[0], 0.75, 0.9999), diffusers_average(steps[0], 0.75, 0.9999)
    for parameters in walk(20):
        theirs.step(parameters)
    mine.load_state_dict(theirs.state_dict())
    for parameters in walk(20):
        mine.step(parameters)
        theirs.step(parameters)
    for own, other in zip(mine.state_dict()["shadow_params"], theirs.shadow_params, strict=True):
        assert torch.equal(own, other)


@pytest.mark.parametrize(("max_decay", "averaged"), [(0.9, True), (0.0, False)])
def test_average_stands_in_for_the_weights_inside_the_block_only_even_after_an_error(max_decay, averaged):
    average = None
    for parameters in walk(5):
        average = average or MovingAverage(parameters, 0.75, max_decay)
        average.step(parameters)
    weights = [parameter.detach().clone() for parameter in parameters]
    with pytest.raises(KeyError), average.swapped_in(parameters):
        assert torch.equal(parameters[0], weights[0]) != averaged
        raise KeyError
    for parameter, weight in zip(parameters, weights, strict=True):
        assert torch.equal(parameter, weight)


@pytest.mark.parametrize("warmup_steps", [0, 1, 5, 200])
@pytest.mark.parametrize("total", [1, 7, 100])
@pytest.mark.parametrize("schedule", ["cosine", "constant"])
def test_schedule_has_the_rates_of_diffusers(schedule, warmup_steps, total):
    settings = TrainingConfig(schedule=schedule, warmup_steps=warmup_steps, learning_rate=3e-4)
    mine, theirs = (torch.optim.AdamW([nn.Parameter(torch.zeros(1))], lr=3e-4) for _ in range(2))
    own = make_schedule(mine, settings, total)
    if schedule == "constant":
        other = get_constant_schedule_with_warmup(theirs, warmup_steps)
    else:
        other = get_cosine_schedule_with_warmup(theirs, warmup_steps, total)
    for _ in range(total):
        assert own.get_last_lr() == other.get_last_lr()
        mine.step(), theirs.step(), own.step(), other.step()
    assert own.get_last_lr() == other.get_last_lr()


def test_training_imports_neither_diffusers_nor_timm():
    code = "import sys, s2robot.training; print([name for name in ('diffusers', 'timm') if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"
