"""Export encoder and policy to one file for other runtimes, ONNX or `torch.export`; checked before it gets its name."""

from __future__ import annotations

import dataclasses
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from s2robot.checkpoint import Checkpoint, load_policy, package_versions
from s2robot.config.deployment import ExportConfig
from s2robot.data.appearance import recorded_size
from s2robot.deployment.graph import EncoderGraph, ExportError, PolicyGraph, without_branches
from s2robot.interfaces import CheckpointError
from s2robot.system.extras import missing
from s2robot.system.files import sync_and_rename, write_durably

EXPORT_TOLERANCE = {"encoder": 1e-4, "policy": 1e-3}
"""Largest allowed difference from eager PyTorch, relative to the largest feature or to each action's range.

The policy's is larger because its features are rounded to float16: tiny float32 differences sometimes round to
different float16 values, which are 2⁻¹¹ apart.
"""

_EXAMPLES = 4
_OPSET = 20

RunGraph = Callable[[list[Tensor]], list[Tensor]]


def export_checkpoint(config: ExportConfig) -> dict[str, Any]:
    """Write `config.out`, and beside it a JSON file that describes its inputs and outputs; return that description.

    Raises:
        ExportError: the policy cannot be traced, or the file does not compute what the policy computes; nothing is
            written then.
        CheckpointError: the checkpoint is damaged, or it records no image size and none is given.
        MissingLibraryError: the libraries for ONNX are not installed.
    """
    policy, encoder, checkpoint = load_policy(
        config.checkpoint,
        torch.device("cpu"),
        engine="eager",
        task_text=config.task_text,
        tells_task=config.part == "encoder",  # which does not depend on the task
    )
    sizes = _image_sizes(config, checkpoint)
    graph: EncoderGraph | PolicyGraph
    if config.part == "encoder":
        if len(set(sizes.values())) > 1:
            raise CheckpointError(f"the cameras' images differ in size ({sizes}); give image_size=[height,width]")
        graph = EncoderGraph(encoder, config.batch, next(iter(sizes.values())))
    else:
        graph = PolicyGraph(policy, encoder, checkpoint, config.batch, sizes)
    out = Path(config.out)
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(out.name + ".partial")
    try:
        run = (_write_onnx if config.format == "onnx" else _write_torch)(_trace(graph), graph, partial)
        error = _largest_difference(run, graph)
        if not error <= EXPORT_TOLERANCE[config.part]:  # written so that NaN fails too
            raise ExportError(
                f"the {config.format} file does not compute what the {config.part} computes: difference {error:.2e} "
                f"(tolerance {EXPORT_TOLERANCE[config.part]:.0e}); {config.out!r} was not written"
            )
        document = {
            **({} if config.task_text is None else {"task_text": config.task_text}),
            "format": config.format,
            "part": config.part,
            "inputs": [dataclasses.asdict(port) for port in graph.inputs],
            "outputs": [dataclasses.asdict(port) for port in graph.outputs],
            "execute_steps": checkpoint.config.policy.execute_steps,
            "largest_difference": error,
            "tolerance": EXPORT_TOLERANCE[config.part],
            "normalisation": "inside the graph: images, proprioception and actions are in their own units",
            "fingerprints": checkpoint.fingerprints,
            "environment": checkpoint.environment,
            "versions": package_versions(),
        }
        sync_and_rename(partial, out)
    finally:
        partial.unlink(missing_ok=True)
    write_durably(out.with_name(out.name + ".json"), json.dumps(document, indent=1).encode())
    return document


def _image_sizes(config: ExportConfig, checkpoint: Checkpoint) -> dict[str, tuple[int, int]]:
    """Return camera -> (height, width): the requested size, else the size of the demonstrations."""
    sizes = {}
    for camera in checkpoint.spec.features:
        size = config.image_size or recorded_size(checkpoint.environment, camera)
        if size is None:
            raise CheckpointError(
                f"checkpoint {config.checkpoint!r} records no image size; give image_size=[height,width]"
            )
        sizes[camera] = (size[0], size[1])
    return sizes


def _trace(graph: EncoderGraph | PolicyGraph) -> torch.export.ExportedProgram:
    inputs, _ = graph.example(0)
    try:
        policy = getattr(graph, "policy", torch.nn.Identity())
        with torch.no_grad(), without_branches(policy):
            return torch.export.export(graph.eval(), tuple(inputs), strict=False)
    except ExportError:
        raise
    except Exception as error:  # torch.export raises many kinds of error for code that it cannot trace
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise ExportError(f"{type(graph).__name__} cannot be traced by torch.export: {reason}") from error


def _write_torch(program: torch.export.ExportedProgram, graph: EncoderGraph | PolicyGraph, path: Path) -> RunGraph:
    with path.open("wb") as writer:
        torch.export.save(program, writer)
    with path.open("rb") as reader:
        module = torch.export.load(reader).module()

    def run(inputs: list[Tensor]) -> list[Tensor]:
        outputs = module(*inputs)
        return list(outputs) if isinstance(outputs, tuple | list) else [outputs]

    return run


def _write_onnx(program: torch.export.ExportedProgram, graph: EncoderGraph | PolicyGraph, path: Path) -> RunGraph:
    try:
        import onnxruntime
        import onnxscript  # noqa: F401  # torch.onnx needs it
    except ModuleNotFoundError as error:
        raise missing("onnxscript or onnxruntime", "onnx", error) from error
    names = [port.name for port in graph.inputs]
    _convert(program, graph, names).save(path)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    found = {node.name for node in session.get_inputs()}
    if found != set(names):
        raise ExportError(f"the ONNX graph has the inputs {sorted(found)}; expected {sorted(names)}")

    def run(inputs: list[Tensor]) -> list[Tensor]:
        feed = {name: tensor.numpy() for name, tensor in zip(names, inputs, strict=True)}
        return [torch.from_numpy(array) for array in session.run(None, feed)]

    return run


def _convert(program: torch.export.ExportedProgram, graph: EncoderGraph | PolicyGraph, names: list[str]) -> Any:
    """Return the ONNX program, whose inputs are called `names`."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PyTorch warns of changes in its own next versions
            return torch.onnx.export(
                program,
                tuple(graph.example(0)[0]),
                input_names=names,
                output_names=[port.name for port in graph.outputs],
                opset_version=_OPSET,
                dynamo=True,
                verbose=False,
            )
    except Exception as error:  # whatever the converter raises for an operator that ONNX lacks
        reason = next((line for line in str(error.__cause__ or error).splitlines() if line.strip()), "")
        raise ExportError(
            f"{type(graph).__name__} cannot be converted to ONNX: {reason or type(error).__name__}; "
            "format=torch_export needs no conversion"
        ) from error


@torch.no_grad()
def _largest_difference(run: RunGraph, graph: EncoderGraph | PolicyGraph) -> float:
    """Return the largest difference between the file and the policy over several examples, see `EXPORT_TOLERANCE`."""
    spread = graph.spread()
    worst = 0.0
    for seed in range(1, _EXAMPLES + 1):
        inputs, expected = graph.example(seed)
        for index, (one, other) in enumerate(zip(run(inputs), expected, strict=True)):
            if one.shape != other.shape:
                raise ExportError(f"the file returns shape {tuple(one.shape)}, the policy {tuple(other.shape)}")
            scale = spread[index] if isinstance(graph, EncoderGraph) else spread
            difference = float(((graph.comparable(one) - graph.comparable(other)).abs() / scale).max())
            worst = difference if difference != difference else max(worst, difference)  # NaN stays, `max` may drop it
    return worst
