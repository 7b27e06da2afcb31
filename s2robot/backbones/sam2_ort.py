"""Reading SAM 2's Hiera encoder out of an ONNX Runtime flatbuffer (`.ort`), as npm packages ship it."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from s2robot.interfaces import WeightsError

_FLOAT = 1  # onnx.TensorProto.FLOAT
_TRUNK = "model.image_encoder.trunk."
_FOLDED = "/image_encoder/trunk/"
_BACKGROUND, _WINDOW = 7, 8
"""Sides of Hiera's two position tables: the first is resized to the image, the second repeats in every window."""


def read_sam2_ort(folder: Path) -> dict[str, Tensor]:
    """Read the trunk's tensors, under timm's names, from the single `.ort` file in `folder`.

    The exporter stored linear layers transposed, under the names of its graph's nodes. It also folded both position
    tables into one for 1024-pixel images; least squares recovers the two.

    Raises:
        WeightsError: onnxruntime, whose flatbuffer classes read the file, is not installed, or the file holds a
            different model.
    """
    path = next(iter(folder.glob("*.ort")))
    state: dict[str, Tensor] = {}
    folded = None
    for name, value in _float_tensors(path):
        transposed = re.fullmatch(rf"{_FOLDED}(blocks\.\d+)/(.+)/Transpose_output_0", name)
        if name.startswith(_TRUNK):
            state[name.removeprefix(_TRUNK)] = value
        elif transposed:
            state[f"{transposed[1]}.{transposed[2].replace('/', '.')}.weight"] = value.T.contiguous()
        elif name == f"{_FOLDED}Transpose_output_0":
            folded = value[0].double()
    if folded is None:
        raise WeightsError(f"{path} does not hold SAM 2's Hiera trunk")
    state = {key.replace("mlp.layers.0.", "mlp.fc1.").replace("mlp.layers.1.", "mlp.fc2."): state[key] for key in state}
    state["pos_embed"], state["pos_embed_window"] = _unfold_positions(folded)
    return state


def _float_tensors(path: Path) -> list[tuple[str, Tensor]]:
    try:
        from onnxruntime.tools.ort_format_model.ort_flatbuffers_py.fbs.InferenceSession import InferenceSession
    except ImportError as error:
        raise WeightsError(
            "reading this archive needs onnxruntime: run `pip install onnxruntime flatbuffers`"
        ) from error
    graph = InferenceSession.GetRootAsInferenceSession(bytearray(path.read_bytes()), 0).Model().Graph()
    tensors = []
    for index in range(graph.InitializersLength()):
        entry = graph.Initializers(index)
        if entry.DataType() == _FLOAT:
            shape = [entry.Dims(axis) for axis in range(entry.DimsLength())]
            array = np.frombuffer(entry.RawDataAsNumpy().tobytes(), "<f4").reshape(shape)
            tensors.append((entry.Name().decode(), torch.from_numpy(array.copy())))
    return tensors


def _unfold_positions(folded: Tensor) -> tuple[Tensor, Tensor]:
    """Split bicubic(background table) + tiled window table, [C, h, h], into the two tables."""
    channels, side, _ = folded.shape
    cells, window = _BACKGROUND**2, _WINDOW**2
    stretched = F.interpolate(
        torch.eye(cells, dtype=torch.float64).reshape(cells, 1, _BACKGROUND, _BACKGROUND),
        size=(side, side),
        mode="bicubic",
    )
    repeated = torch.eye(window, dtype=torch.float64).reshape(window, 1, _WINDOW, _WINDOW)
    repeated = repeated.tile((1, 1, side // _WINDOW, side // _WINDOW))
    basis = torch.cat([stretched.reshape(cells, -1), repeated.reshape(window, -1)]).T
    # The solution is unique only up to a constant shared by both tables; slight damping picks the least norm.
    gram = basis.T @ basis
    gram += 1e-9 * gram.diagonal().mean() * torch.eye(cells + window, dtype=torch.float64)
    tables = torch.linalg.solve(gram, basis.T @ folded.reshape(channels, -1).T)
    if (basis @ tables - folded.reshape(channels, -1).T).abs().max() > 1e-5:
        raise WeightsError("the file's position table does not match SAM 2's Hiera")
    # Solvers round differently on different machines. After rounding to this grid they nearly always agree, and so do
    # the hashes of the weights.
    tables = (tables * 2**20).round() / 2**20
    background = tables[:cells].T.reshape(1, channels, _BACKGROUND, _BACKGROUND)
    return background.float(), tables[cells:].T.reshape(1, channels, _WINDOW, _WINDOW).float()
