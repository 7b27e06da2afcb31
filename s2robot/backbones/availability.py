"""Find out which named backbones have their weights on this machine."""

from __future__ import annotations

from pathlib import Path

import huggingface_hub
import torch

from s2robot.backbones.cache import fetched_file
from s2robot.backbones.loading import package_file
from s2robot.backbones.spec import BackboneSpec

_HUB_FILES = ("model.safetensors", "pytorch_model.bin", "open_clip_model.safetensors")


def is_available(spec: BackboneSpec) -> bool:
    """Whether the weights from the row's own source are on this machine, so that no network access is needed."""
    if spec.source == "package":
        return package_file(spec) is not None
    if spec.source == "fetched":
        return fetched_file(spec.name).is_file()
    if spec.network:
        return False
    import timm  # see `find_spec`

    config = timm.get_pretrained_cfg(spec.timm_name)
    if config is None:
        return False
    if config.hf_hub_id:
        names = [config.hf_hub_filename or _HUB_FILES[0], *_HUB_FILES]
        return any(isinstance(huggingface_hub.try_to_load_from_cache(config.hf_hub_id, name), str) for name in names)
    return bool(config.url) and (Path(torch.hub.get_dir()) / "checkpoints" / Path(str(config.url)).name).is_file()
