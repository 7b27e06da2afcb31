"""Reading checkpoint files without unpickling code, and loading them strictly."""

from __future__ import annotations

import argparse
from collections.abc import Collection, Mapping
from pathlib import Path
from pickle import UnpicklingError

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from s2robot.interfaces import WeightsError

StateDict = dict[str, Tensor]
SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")
_WRAPPERS = ("model", "state_dict", "model_state_dict")


def read_state_dict(path: Path) -> StateDict:
    """Read the tensors of a `.safetensors` file, or of a `.pth`, `.pt` or `.bin` file that holds only tensors.

    A checkpoint that nests its tensors under `model` or `state_dict` is unwrapped.

    Raises:
        WeightsError: the file is missing, damaged, not a checkpoint, or would have to be unpickled.
    """
    if not path.is_file():
        raise WeightsError(f"weights file {path} does not exist; give an existing file ending in {', '.join(SUFFIXES)}")
    if path.suffix not in SUFFIXES:
        raise WeightsError(f"cannot read weights from {path}: the name must end in {', '.join(SUFFIXES)}")
    content = _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
    for wrapper in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    if not isinstance(content, Mapping) or not content or not all(isinstance(v, Tensor) for v in content.values()):
        raise WeightsError(f"{path} does not hold a state dict (a mapping of names to tensors)")
    return dict(content)


def _read_safetensors(path: Path) -> object:
    try:
        return load_file(path)
    except (
        SafetensorError,
        OSError,
        ValueError,
    ) as error:  # which error a damaged header raises depends on the version
        raise WeightsError(f"{path} is damaged or not a safetensors file: {error}") from error


def _read_torch(path: Path) -> object:
    try:
        # Meta's checkpoints (MAE, VC-1) hold their training arguments as a Namespace, which is safe: only attributes.
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        raise WeightsError(
            f"{path} is damaged, or holds more than tensors and would have to be unpickled, which can run code. "
            "If you trust the file, load it elsewhere and save only its state dict, as .safetensors"
        ) from error
    except Exception as error:  # arbitrary bytes can fail anywhere in the reader
        raise WeightsError(f"{path} is damaged or not a PyTorch checkpoint: {error}") from error


def load_strictly(model: nn.Module, state: StateDict, optional: Collection[str], source: str) -> None:
    """Copy `state` into `model`; `state` must have every tensor of the model, in the same shape.

    Args:
        model: receives the weights.
        state: name -> tensor.
        optional: names that `state` may contain although the model does not use them (the classifier head).
        source: where `state` came from, for the error text.

    Raises:
        WeightsError: tensors are missing, unexpected or of different shapes; the message lists all of them.
    """
    own = model.state_dict()
    # Checkpoints from before PyTorch 0.4.1 lack these counters, which frozen batch norms do not use.
    missing = [key for key in own if key not in state and not key.endswith("num_batches_tracked")]
    unexpected = [key for key in state if key not in own and key not in optional]
    shapes = [
        f"{key} {tuple(state[key].shape)} instead of {tuple(own[key].shape)}"
        for key in own
        if key in state and state[key].shape != own[key].shape
    ]
    if missing or unexpected or shapes:
        raise WeightsError(
            f"{source} is a checkpoint of a different architecture. Missing: {', '.join(missing) or 'none'}. "
            f"Unexpected: {', '.join(unexpected) or 'none'}. Different shapes: {', '.join(shapes) or 'none'}"
        )
    model.load_state_dict({key: state[key] for key in own if key in state}, strict=False)
