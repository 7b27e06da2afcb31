"""Encoder and policy as one module of plain tensors, which `export` traces and compares the exported file with."""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import SchedulerMixin
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from s2robot.checkpoint import Checkpoint
from s2robot.encoder import S2Encoder
from s2robot.interfaces import Observation, S2RobotError
from s2robot.policies import Policy


class ExportError(S2RobotError):
    """The policy cannot be exported, or the exported file does not compute what the policy computes."""


@dataclass(frozen=True)
class Port:
    """One input or output of a graph: its name, type, shape and meaning."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    meaning: str


class NoiseTape(TorchFunctionMode):
    """Replaces a policy's random draws by values from a tensor of normal noise, or records them in that form.

    A graph cannot draw random numbers from a generator per row, so noise must be an input. A policy draws row i from
    `generators[i]`; under this mode, the k-th number of row i is `noise[i, k]`. A category, such as the component of a
    mixture, takes one number: its normal CDF is a point in [0, 1], which the categories divide by their probabilities.

    Args:
        generators: one generator per row, as passed to `Policy.act`.
        noise: noise float32 [B, n] to use; None = let the generators draw, and record.

    Attributes:
        drawn: recorded noise of each row.
    """

    def __init__(self, generators: Sequence[torch.Generator], noise: Tensor | None = None) -> None:
        super().__init__()
        self._rows = {id(generator): row for row, generator in enumerate(generators)}
        self._noise = noise
        self._used = [0] * len(generators)
        self.drawn: list[list[Tensor]] = [[] for _ in generators]

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Intercept `torch.randn` and `torch.multinomial` with `generator=`; other draws from the generators raise."""
        kwargs = kwargs or {}
        row = self._rows.get(id(kwargs.get("generator")))
        if row is None:
            return func(*args, **kwargs)
        if func is torch.multinomial:
            return self._category(row, args[0], lambda: func(*args, **kwargs))
        if func is not torch.randn:
            raise ExportError(
                f"this policy draws with torch.{getattr(func, '__name__', func)}, whose noise cannot be a graph input; "
                "policies that draw with torch.randn or torch.multinomial, or not at all, can be exported"
            )
        if self._noise is None:
            drawn = func(*args, **kwargs)
            self.drawn[row].append(drawn.flatten())
            return drawn
        shape = tuple(args[0]) if len(args) == 1 and not isinstance(args[0], int) else args
        start = self._used[row]
        self._used[row] += math.prod(shape)
        return self._noise[row, start : self._used[row]].reshape(shape)

    def _category(self, row: int, probabilities: Tensor, draw: Callable[[], Tensor]) -> Tensor:
        """Draw one category int64 [1] with probabilities float32 [n]."""
        edges = probabilities.cumsum(0)
        if self._noise is not None:
            quantile = torch.special.ndtr(self._noise[row, self._used[row]])
            self._used[row] += 1
            return (quantile > edges[:-1]).sum(0, keepdim=True)
        drawn = draw()
        # Record the middle of the category's interval, so that rounding cannot move it into a neighbouring category.
        middle = edges[drawn] - probabilities[drawn] / 2
        self.drawn[row].append(torch.special.ndtri(middle))
        return drawn


class _Step(int):
    """A sampler's time step as a constant: graphs have no branches, so what samplers branch on must be a number."""

    def expand(self, count: int) -> Tensor:
        """Return the step as int64 [count], as `Tensor.expand` would; policies call this."""
        return torch.full((count,), int(self))


@contextlib.contextmanager
def without_branches(policy: nn.Module) -> Iterator[None]:
    """Make a policy traceable during the block: samplers count with plain numbers, transformers do not inspect masks.

    The results are the same. Samplers must have been used before.
    """
    samplers = list(_samplers(policy))
    kept = [dict(vars(sampler)) for sampler in samplers]
    transformers = [m for m in policy.modules() if isinstance(m, nn.TransformerDecoder | nn.TransformerEncoder)]
    hooks = [module.register_forward_pre_hook(_masks_are_any, with_kwargs=True) for module in transformers]
    try:
        for sampler in samplers:
            sampler.set_timesteps(len(sampler.timesteps))  # clears the state of the last sample
            steps = [_Step(step) for step in sampler.timesteps.tolist()]
            after = dict(itertools.pairwise([*steps, _Step(-1)]))
            sampler.timesteps = steps
            sampler.set_timesteps = lambda *args, **kwargs: None
            sampler.previous_timestep = after.__getitem__
            sampler.index_for_timestep = lambda step, *args, steps=steps: steps.index(step)
            # Thresholding is then a clamp. ONNX does not support the general form, with quantiles.
            if sampler.config.sample_max_value == 1:
                sampler._threshold_sample = lambda sample: sample.clamp(-1, 1)
        yield
    finally:
        for sampler, attributes in zip(samplers, kept, strict=True):
            vars(sampler).clear()
            vars(sampler).update(attributes)
        for hook in hooks:
            hook.remove()


def _samplers(policy: nn.Module) -> Iterator[Any]:
    """Find the diffusers schedulers that a policy, or a plain object in it, samples with."""
    for holder in [policy, *vars(policy).values()]:
        for name, value in getattr(holder, "__dict__", {}).items():
            if isinstance(value, SchedulerMixin) and name != "_noiser":  # the noiser is for training only
                yield value


def _masks_are_any(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Skip the check whether a mask is causal: it is for speed only, and branches on the mask's values."""
    return args, {**kwargs, "tgt_is_causal" if isinstance(module, nn.TransformerDecoder) else "is_causal": False}


class EncoderGraph(nn.Module):
    """Images of one camera → features as from `S2Encoder`; the runtime of the graph may round differently."""

    def __init__(self, encoder: S2Encoder, batch: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.encoder = encoder
        shape = encoder.feature_shape(*size)
        self._has_prefix = bool(shape.num_prefix)
        self._size = (batch, *size, 3)
        self.inputs = [Port("image", "uint8", self._size, "upright RGB, 0 to 255; normalised inside the graph")]
        grid = (batch, shape.channels, shape.height, shape.width)
        self.outputs = [Port("map", "float32", grid, "features of all scales, [B, S·C, h, w]")]
        if self._has_prefix:
            tokens = (batch, shape.num_prefix, shape.channels)
            self.outputs.append(Port("prefix", "float32", tokens, "class and register tokens"))

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Map uint8 [B, H, W, 3] to (map, prefix), or to (map,) if there are no prefix tokens."""
        features = self.encoder(image)
        return tuple(features) if self._has_prefix else (features.map,)

    def example(self, seed: int) -> tuple[list[Tensor], tuple[Tensor, ...]]:
        """Return example inputs, and the encoder's own outputs for them."""
        image = _pictures(self._size, seed)
        return [image], self(image)

    def comparable(self, features: Tensor) -> Tensor:
        """Return the features themselves."""
        return features

    def spread(self) -> Tensor:
        """Return the divisors of differences before the comparison with the tolerance: the largest value per output."""
        return torch.cat([part.abs().max().reshape(1) for part in self.example(0)[1]])


class PolicyGraph(nn.Module):
    """Observations of To steps, and noise if the policy samples → action chunks in environment units.

    Args:
        policy, encoder, checkpoint: as returned by `load_policy`.
        batch: number of rows.
        sizes: camera -> (height, width) of its images.
    """

    def __init__(
        self,
        policy: Policy,
        encoder: S2Encoder,
        checkpoint: Checkpoint,
        batch: int,
        sizes: Mapping[str, tuple[int, int]],
    ) -> None:
        super().__init__()
        self.policy, self.encoder = policy.requires_grad_(False), encoder
        self._shapes = checkpoint.spec.features
        self._batch = batch
        config, spec = checkpoint.config.policy, checkpoint.spec
        steps, chunk = config.observation_steps, (config.action_steps, spec.action_width)
        history = f"the last {steps} steps, oldest first; an episode's first step is repeated before it"
        self.inputs = [
            Port(f"{camera}_image", "uint8", (batch, steps, *sizes[camera], 3), f"upright RGB, 0 to 255; {history}")
            for camera in self._shapes
        ]
        keys = ", ".join(checkpoint.proprioception)
        width = (batch, steps, spec.proprioception_width)
        self._has_proprioception = bool(spec.proprioception_width)
        if self._has_proprioception:
            self.inputs.append(Port("proprioception", "float32", width, f"{keys}, in simulator units; {history}"))
        past = "executed just before each of these steps, environment units; zeros before the first"
        self.inputs.append(Port("past_actions", "float32", (batch, steps, spec.action_width), past))
        self.outputs = [
            Port("actions", "float32", (batch, *chunk), f"environment units; execute the first {config.execute_steps}")
        ]
        self._numbers = 0  # so that the first examples run without a noise input; they show how much noise is drawn
        self._numbers = self.example(0)[0][-1].shape[1] if self._samples() else 0
        if self._numbers:
            draws = "standard normal, in the order the policy draws; other noise, another sample"
            self.inputs.append(Port("noise", "float32", (batch, self._numbers), draws))

    def forward(self, *tensors: Tensor) -> Tensor:
        """Map the tensors, in the order of `inputs`, to actions [B, Ta, A]."""
        # Nothing is drawn from these generators; the tape recognises the rows by them.
        generators = [torch.Generator() for _ in range(self._batch)]
        if not self._numbers:
            return self.policy.act(self._observation(tensors), generators)
        with NoiseTape(generators, tensors[-1]):
            return self.policy.act(self._observation(tensors[:-1]), generators)

    def example(self, seed: int) -> tuple[list[Tensor], tuple[Tensor, ...]]:
        """Return example inputs, and the policy's own outputs for them with noise drawn from generators."""
        random = torch.Generator().manual_seed(seed)
        inputs: list[Tensor] = []
        for port in self.inputs:
            if port.dtype == "uint8":
                inputs.append(_pictures(port.shape, seed + len(inputs)))
            elif port.name == "proprioception":  # values as in training, for which the tolerance is meant
                normal = self.policy.observation.proprioception
                inputs.append(normal.mean + normal.std * torch.randn(port.shape, generator=random))
            elif port.name == "past_actions":
                known = self.policy.actions
                drawn = torch.rand((*port.shape[:-1], known.layout.learned_width), generator=random)
                inputs.append(known.layout.decode(torch.lerp(known.minimum, known.maximum, drawn)))
        generators = [torch.Generator().manual_seed(100 * seed + row) for row in range(self._batch)]
        tape = NoiseTape(generators)
        with tape:
            actions = self.policy.act(self._observation(inputs), generators)
        if tape.drawn[0]:
            inputs.append(torch.stack([torch.cat(row) for row in tape.drawn]))
        return inputs, (actions.clone(),)

    def spread(self) -> Tensor:
        """Return the range of each number of `comparable`, by which differences are divided before the comparison."""
        return (self.policy.actions.maximum - self.policy.actions.minimum).clamp(min=1e-3)

    def comparable(self, actions: Tensor) -> Tensor:
        """Return actions with rotations in their 6-D form: near a half turn, equal ones can have opposite numbers."""
        return self.policy.actions.layout.encode(actions)

    def _samples(self) -> bool:
        return len(self.example(0)[0]) > len(self.inputs)

    def _observation(self, tensors: Sequence[Tensor]) -> Observation:
        images = dict(zip(self._shapes, tensors, strict=False))
        *_, past_actions = tensors
        batch, steps = past_actions.shape[:2]
        encoded = self.encoder.encode_cameras({camera: frames.flatten(0, 1) for camera, frames in images.items()})
        features = {
            camera: self._shapes[camera].pack(maps).unflatten(0, (batch, steps)) for camera, maps in encoded.items()
        }
        nothing = past_actions.new_zeros((batch, steps, 0))
        return Observation(features, tensors[-2] if self._has_proprioception else nothing, past_actions)


def _pictures(shape: tuple[int, ...], seed: int) -> Tensor:
    """Return images uint8 […, H, W, 3]: noise for even seeds; smooth colours, as in real images, for odd seeds."""
    random = torch.Generator().manual_seed(seed)
    if seed % 2 == 0:
        return torch.randint(0, 256, shape, generator=random, dtype=torch.uint8)
    y, x = torch.meshgrid(torch.linspace(0, 3, shape[-3]), torch.linspace(0, 3, shape[-2]), indexing="ij")
    phase = torch.rand((*shape[:-3], 1, 1, 3), generator=random) * 6
    return (127.5 * (1 + torch.sin(y[..., None] + 2 * x[..., None] + phase))).to(torch.uint8)
