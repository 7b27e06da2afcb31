"""Ways to run a backbone on tiles: eager PyTorch, `torch.compile`, CUDA graphs, OpenVINO.

All engines give the same features within the rounding of the precision. There is no silent fallback: an engine or a
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
    """Build an engine; if the engine computes with the backbone's own tensors, cast them in place.

    Args:
        name: one of `ENGINES`.
        backbone: the frozen backbone.
        precision: one of `PRECISIONS`.
        channels_last: whether tiles and weights have the channels-last layout; OpenVINO chooses its own layout.
        device: device that the encoder will run on.

    Returns:
        The engine, and the dtype that the backbone's own tensors now have.

    Raises:
        ConfigError: the engine or precision is unknown, or this machine lacks it.
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
    """Keep cuDNN from rounding float32 convolutions to TensorFloat-32, which PyTorch allows by default on GPUs."""
    cudnn: Any = torch.backends.cudnn
    # PyTorch 2.9 added a separate switch for convolutions. After one switch was used, reading the other is an error.
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
    """Records the backbone's kernels once per batch shape and replays them without Python in between.

    Args:
        run: the eager engine on a CUDA device.
    """

    def __init__(self, run: Engine) -> None:
        self._run = run
        self._graphs: dict[torch.Size, tuple[torch.cuda.CUDAGraph, Tensor, tuple[Tensor, Tensor]]] = {}

    def __call__(self, tiles: Tensor) -> tuple[Tensor, Tensor]:
        """Replay the graph for this shape of tiles; record it first if the shape is new."""
        if tiles.shape not in self._graphs:
            self._graphs[tiles.shape] = self._record(tiles)
        graph, inputs, outputs = self._graphs[tiles.shape]
        inputs.copy_(tiles)
        graph.replay()
        return outputs[0].clone(), outputs[1].clone()  # the next replay writes over the recorded outputs

    def _record(self, tiles: Tensor) -> tuple[torch.cuda.CUDAGraph, Tensor, tuple[Tensor, Tensor]]:
        inputs = tiles.clone()
        # Warm up: in their first runs libraries choose algorithms and allocate workspaces, which must not be recorded.
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
    """Runs the backbone as an OpenVINO graph, which fuses layers and picks kernels for this CPU.

    Args:
        backbone: the frozen backbone, in float32.
        precision: precision that the graph computes in.
        device: device of the encoder; only the CPU is possible.

    Raises:
        ConfigError: openvino is not installed, or the CPU does not compute in this precision. The first call raises it
            if OpenVINO cannot run this backbone on this processor.
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
        """Run the graph for this size of tiles; build it first if the size is new."""
        size = tiles.shape[1:]
        if size not in self._requests:
            self._requests[size] = self._build(tiles[:1])
        # The request owns its output memory and writes over it in the next call.
        outputs = self._requests[size].infer(tiles.contiguous().numpy(), share_inputs=True, share_outputs=True)
        tile_map = torch.from_numpy(outputs[0].copy())
        if len(tile_map) != len(tiles):  # seen when oneDNN was limited to SSE4.1
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
        # Windows keep the encoder's tile size even for a smaller scale, as in the other engines.
        if isinstance(backbone, FrozenBackbone) and not backbone.has_windows:
            backbone = copy.deepcopy(backbone)
            backbone.resample_positions(*tile.shape[2:])
        # Trace with two tiles: with one, the tracer could fix the batch size to 1.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", torch.jit.TracerWarning)  # tile sizes are constants of each graph
            warnings.simplefilter("ignore", FutureWarning)  # PyTorch deprecates the tracing that OpenVINO uses
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
    """Leaves out empty prefix tokens, because OpenVINO has no tensors of size zero."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self._backbone = backbone

    def forward(self, tiles: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        tile_map, prefix = self._backbone.forward_features(tiles)
        return (tile_map, prefix) if prefix.shape[1] else tile_map


def _import_openvino() -> Any:
    """Import OpenVINO without its telemetry, which by default reports each conversion to its makers."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # None makes its import fail
    return importlib.import_module("openvino")


def openvino_precisions() -> list[str]:
    """Precisions that OpenVINO computes in natively on this CPU; empty if OpenVINO is not installed."""
    if importlib.util.find_spec("openvino") is None:
        return []
    openvino = _import_openvino()

    capabilities = openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return [precision for precision in PRECISIONS if precision.upper() in capabilities]
