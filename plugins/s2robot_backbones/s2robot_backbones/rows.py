"""The rows of the two networks, which are this package's entry points."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from s2robot.backbones import BackboneSpec, Network
from s2robot_backbones.lsnet import LSNet
from s2robot_backbones.unireplknet import UniRepLKNet, merge

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def without(*prefixes: str) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    """Return a conversion that drops tensors with these prefixes: the classifier's."""
    return lambda state: {name: value for name, value in state.items() if not name.startswith(prefixes)}


UNIREPLKNET_A = BackboneSpec(
    name="unireplknet_a",
    timm_name="",
    family="UniRepLKNet",
    source="fetched",
    licence="Apache-2.0",
    size=224,
    width=320,
    parameters=4.1,
    url="https://huggingface.co/DingXiaoH/UniRepLKNet/resolve/main/unireplknet_a_in1k_224_acc77.03.pth",
    mean=IMAGENET_MEAN,
    std=IMAGENET_STD,
    network=Network(UniRepLKNet, version="1", convert=without("head."), finish=merge, minimum_size=32),
)

LSNET_T = BackboneSpec(
    name="lsnet_t",
    timm_name="",
    family="LSNet",
    source="fetched",
    licence="not stated",
    size=224,
    width=384,
    parameters=11.0,
    url="https://huggingface.co/jameslahm/lsnet/resolve/main/lsnet_t.pth",
    mean=IMAGENET_MEAN,
    std=IMAGENET_STD,
    network=Network(LSNet, version="1", convert=without("head.", "head_dist."), minimum_size=32),
)
