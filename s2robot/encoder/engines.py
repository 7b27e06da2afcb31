"""Ways to run a backbone on tiles: eager PyTorch, `torch.compile`, CUDA graphs, OpenVINO.

Every engine gives the same features within the rounding of its precision. None is chosen silently: an engine or a
precision that this machine lacks is an error.
"""

from __future__ import annotations

import contextlib
import copy
import importlib
import importlib.util
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from s2robot.backbones.frozen import FrozenBackbone
from s2robot.interfaces import Backbone, ConfigError, unknown_name
from s2robot.system.precision import PRECISIONS, dtype_of

Engine = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Normalised float32 tiles [b, 3, th, tw] -> (map [b, C, h, w], prefix [b, P, C])."""

ENGINES = ("eager", "compile", "cuda_graph", "openvino")


def make_engine(
    name: str, backbone: Backbone, precision: str, channels_last: bool, device: torch.device
) -> tuple[Engine, torch.dtype]:
    """Build an engine; casts the backbone in place where the engine computes with its tensors.

    Args:
        name: one of `ENGINES`.
        backbone: the frozen backbone.
        precision: one of `PRECISIONS`.
        channels_last: memory layout of tiles and weights; OpenVINO chooses its own.
        device: where the encoder will run.

    Returns:
        The engine, and the dtype that the backbone's own tensors now have.

    Raises:
        ConfigError: unknown engine or precision, or one that this machine lacks.
    """
    if precision not in PRECISIONS:
        raise ConfigError(unknown_name("precision", precision, PRECISIONS))
    if name not in ENGINES:
        raise ConfigError(unknown_name("engine", name, ENGINES))
    if name == "openvino":
        return OpenVINOEngine(backbone, precision, device), torch.float32
    dtype = dtype_of(precision)
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    if isinstance(backbone, nn.Module):
        backbone.to(dtype).to(memory_format=memory_format)
    forward = torch.compile(backbone.forward_features) if name == "compile" else backbone.forward_features

    def run(tiles: Tensor) -> tuple[Tensor, Tensor]:
        with _exact_convolutions():
            return forward(tiles.to(dtype, memory_format=memory_format))

    if name == "cuda_graph":
        if device.type != "cuda":
            raise ConfigError(f"engine 'cuda_graph' needs a CUDA device, not {str(device)!r}; use engine=eager")
        return CudaGraphEngine(run), dtype
    return run, dtype


@contextlib.contextmanager
def _exact_convolutions() -> Iterator[None]:
    """Keep cuDNN from rounding float32 convolutions to TensorFloat-32, as PyTorch by default lets it on GPUs."""
    cudnn: Any = torch.backends.cudnn
    # PyTorch 2.9 gave convolutions a switch of their own; who has used one of the two may not read the other.
    switch, setting, exact = (
        (cudnn.conv, "fp32_precision", "ieee") if hasattr(cudnn, "conv") else (cudnn, "allow_tf32", False)
    )
    before = getattr(switch, setting)
    setattr(switch, setting, exact)
    try:
        yield
    finally:
        setattr(switch, setting, before)


class CudaGraphEngine:
    """Record the backbone's kernels once per batch shape and replay them without Python in between.

    Args:
        run: the eager engine, on a CUDA device.
    """

    def __init__(self, run: Engine) -> None:
        self._run = run
        self._graphs: dict[torch.Size, tuple[torch.cuda.CUDAGraph, Tensor, tuple[Tensor, Tensor]]] = {}

    def __call__(self, tiles: Tensor) -> tuple[Tensor, Tensor]:
        """Replay the graph for this shape of tiles, recording it first where it is new."""
        if tiles.shape not in self._graphs:
            self._graphs[tiles.shape] = self._record(tiles)
        graph, inputs, outputs = self._graphs[tiles.shape]
        inputs.copy_(tiles)
        graph.replay()
        return outputs[0].clone(), outputs[1].clone()  # the next replay writes over the recorded outputs

    def _record(self, tiles: Tensor) -> tuple[torch.cuda.CUDAGraph, Tensor, tuple[Tensor, Tensor]]:
        inputs = tiles.clone()
        # Libraries choose algorithms and allocate workspaces in their first runs, which must not be recorded.
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                self._run(inputs)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            outputs = self._run(inputs)
        return graph, inputs, outputs


class OpenVINOEngine:
    """The backbone as an OpenVINO graph, which fuses layers and picks kernels for this CPU.

    Args:
        backbone: the frozen backbone, in float32.
        precision: in which the graph computes.
        device: must be the CPU.

    Raises:
        ConfigError: openvino is not installed, or the CPU does not compute in this precision; on the first
            tiles: OpenVINO has no code for this backbone on this processor.
    """

    def __init__(self, backbone: Backbone, precision: str, device: torch.device) -> None:
        if device.type != "cpu":
            raise ConfigError(f"engine 'openvino' runs on the CPU, not on {str(device)!r}; use engine=cuda_graph")
        native = openvino_precisions()
        if not native:
            raise ConfigError("engine 'openvino' needs the package openvino: run `pip install openvino`")
        if precision not in native:
            raise ConfigError(f"this CPU does not compute in {precision}; valid with openvino: {', '.join(native)}")
        self._backbone = backbone
        self._precision = precision
        self._requests: dict[torch.Size, Any] = {}

    def __call__(self, tiles: Tensor) -> tuple[Tensor, Tensor]:
        """Run the graph for this size of tiles, building it first where it is new."""
        size = tiles.shape[1:]
        if size not in self._requests:
            self._requests[size] = self._build(tiles[:1])
        # The request owns its output memory and writes over it in the next call.
        outputs = self._requests[size].infer(tiles.contiguous().numpy(), share_inputs=True, share_outputs=True)
        tile_map = torch.from_numpy(outputs[0].copy())
        if len(tile_map) != len(tiles):  # seen where oneDNN was held to SSE4.1
            raise self._no_code(f"it returned {len(tile_map)} maps for {len(tiles)} tiles")
        if len(outputs) == 1:
            return tile_map, tile_map.new_empty((len(tile_map), 0, tile_map.shape[1]))
        return tile_map, torch.from_numpy(outputs[1].copy())

    def _no_code(self, reason: str) -> ConfigError:
        return ConfigError(
            f"engine 'openvino' cannot run this backbone in {self._precision} on this processor; use engine=eager "
            f"({reason})"
        )

    def _build(self, tile: Tensor) -> Any:
        openvino = _import_openvino()

        backbone = self._backbone
        # Windows stay those of the encoder's tile size, as in the other engines, also for a smaller scale.
        if isinstance(backbone, FrozenBackbone) and not backbone.has_windows:
            backbone = copy.deepcopy(backbone)
            backbone.resample_positions(*tile.shape[2:])
        # Traced with two tiles: a batch of one could be specialised away.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", torch.jit.TracerWarning)  # tile sizes are constants of each graph
            warnings.simplefilter("ignore", FutureWarning)  # PyTorch's about the tracing that OpenVINO still uses
            model = openvino.convert_model(_WithoutEmptyOutput(backbone), example_input=tile.repeat(2, 1, 1, 1))
        model.reshape([-1, *tile.shape[1:]])
        hint = {"fp32": "f32", "bf16": "bf16", "fp16": "f16"}[self._precision]
        options = {
            "INFERENCE_PRECISION_HINT": hint,
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "PERFORMANCE_HINT": "LATENCY",
        }
        try:
            return openvino.Core().compile_model(model, "CPU", options).create_infer_request()
        except RuntimeError as error:  # some layers exist for AVX2 and later only
            raise self._no_code(str(error).strip().splitlines()[-1]) from error


class _WithoutEmptyOutput(nn.Module):
    """Leaves out the prefix tokens of models that have none: OpenVINO has no tensors of size zero."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self._backbone = backbone

    def forward(self, tiles: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        tile_map, prefix = self._backbone.forward_features(tiles)
        return (tile_map, prefix) if prefix.shape[1] else tile_map


def _import_openvino() -> Any:
    """Import OpenVINO without its telemetry, which reports each conversion to its makers unless opted out of."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # None makes its import fail
    return importlib.import_module("openvino")


def openvino_precisions() -> list[str]:
    """Precisions that OpenVINO computes in natively on this CPU; empty where it is not installed."""
    if importlib.util.find_spec("openvino") is None:
        return []
    openvino = _import_openvino()

    capabilities = openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return [precision for precision in PRECISIONS if precision.upper() in capabilities]
