"""Engines: the same features whatever runs the backbone, and no silent choice of another."""

from __future__ import annotations

import os
import platform
import shutil
from pathlib import Path

import pytest
import torch

from s2robot.backbones import load_backbone
from s2robot.encoder import S2Encoder
from s2robot.encoder.engines import openvino_precisions
from s2robot.interfaces import ConfigError

TOLERANCE = {"fp32": 1e-4, "bf16": 6e-2, "fp16": 1.5e-2}
"""Relative error (L2) against eager float32 that each precision keeps to, on the test models.

Five times and more what was measured with PyTorch's SSE, AVX2 and AVX-512 kernels and OpenVINO's (fp32 9e-7,
bf16 1.1e-2, fp16 1.3e-3): some processors also add up in the short format, which costs another digit.
"""


def relative_error(features, expected) -> float:
    return float((features - expected).norm() / expected.norm())


@pytest.fixture(scope="module", params=["test_vit", "test_convnext", "test_efficientnet"])
def reference(request):
    backbone = load_backbone(request.param, weights="none")
    torch.manual_seed(0)
    images = torch.rand(3, 3, 128, 128)
    return backbone, images, S2Encoder(backbone, scales=(64, 128))(images)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_every_precision_keeps_to_its_tolerance(reference, precision, channels_last):
    backbone, images, expected = reference
    encoder = S2Encoder(backbone, scales=(64, 128), precision=precision, channels_last=channels_last)
    features = encoder(images)
    assert features.map.dtype == torch.float32
    assert relative_error(features.map, expected.map) < TOLERANCE[precision]


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which(os.environ.get("CXX", "g++")), reason="torch.compile needs a C++ compiler")
def test_compiled_features_are_those_of_eager(reference):
    backbone, images, expected = reference
    features = S2Encoder(backbone, scales=(64, 128), engine="compile")(images)
    assert relative_error(features.map, expected.map) < TOLERANCE["fp32"]


def encode_or_skip(encoder, images):
    """The features; a named skip where the processor, or its emulation, is too old for them and OpenVINO says so."""
    emulated = os.environ.get("ONEDNN_MAX_CPU_ISA")
    old = emulated == "SSE41" or "avx2" not in Path("/proc/cpuinfo").read_text()
    old |= emulated == "AVX2" and encoder.precision != "fp32"  # OpenVINO asks the real processor what it computes in
    try:
        return encoder(images)
    except ConfigError as error:
        if old and platform.machine() == "x86_64":
            pytest.skip(str(error))
        raise


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_openvino_features_are_those_of_eager(reference, precision):
    pytest.importorskip("openvino")
    if precision not in openvino_precisions():
        pytest.skip(f"this CPU does not compute in {precision}")
    backbone, images, expected = reference
    encoder = S2Encoder(backbone, scales=(64, 128), engine="openvino", precision=precision, max_tiles=7)
    features = encode_or_skip(encoder, images)
    assert relative_error(features.map, expected.map) < TOLERANCE[precision]
    assert features.prefix.shape == expected.prefix.shape
    assert relative_error(encoder(images).map, features.map) < 1e-5
    first = features.map.clone()
    encoder(torch.rand(3, 3, 128, 128))
    assert torch.equal(features.map, first), "a later call must not write over features handed out before"


def test_openvino_serves_tiles_of_several_sizes(reference):
    pytest.importorskip("openvino")
    backbone, images, _ = reference
    settings = {"scales": (64, 96, 128), "tile": 64, "cover": "pad"}
    encoders = [S2Encoder(backbone, **settings, engine=engine) for engine in ("eager", "openvino")]
    expected, features = (encode_or_skip(encoder, images).map for encoder in encoders)
    assert relative_error(features, expected) < TOLERANCE["fp32"]


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_cuda_graphs_give_the_features_of_eager(reference, precision):
    backbone, images, expected = reference
    encoder = S2Encoder(backbone, scales=(64, 128), engine="cuda_graph", precision=precision, device="cuda")
    for batch in (3, 1, 3):
        features = encoder(images[:batch]).map.cpu()
        assert relative_error(features, expected.map[:batch]) < TOLERANCE[precision]


def convolution_setting() -> tuple:
    """Where this PyTorch says how cuDNN computes float32 convolutions, and what it says with TF32 and without."""
    cudnn = torch.backends.cudnn
    if hasattr(cudnn, "conv"):
        return cudnn.conv, "fp32_precision", {True: "tf32", False: "ieee"}
    return cudnn, "allow_tf32", {True: True, False: False}


@pytest.mark.parametrize("allowed", [True, False])
def test_float32_is_not_rounded_to_tf32_and_the_callers_setting_stays(monkeypatch, allowed):
    where, name, words = convolution_setting()
    before = getattr(where, name)
    backbone = load_backbone("test_efficientnet", weights="none")
    forward, seen = backbone.forward_features, []
    monkeypatch.setattr(backbone, "forward_features", lambda tiles: seen.append(getattr(where, name)) or forward(tiles))
    encoder = S2Encoder(backbone, scales=(64,))
    setattr(where, name, words[allowed])
    try:
        encoder(torch.rand(1, 3, 64, 64))
        assert set(seen) == {words[False]}
        assert getattr(where, name) == words[allowed]
    finally:
        setattr(where, name, before)


def test_unknown_engine_names_the_choices():
    with pytest.raises(
        ConfigError, match="unknown engine 'openvin'; did you mean 'openvino'.*compile, cuda_graph, eager"
    ):
        S2Encoder("test_vit", scales=(64,), weights="none", engine="openvin")


def test_cuda_graphs_need_a_cuda_device():
    with pytest.raises(ConfigError, match="engine 'cuda_graph' needs a CUDA device, not 'cpu'"):
        S2Encoder("test_vit", scales=(64,), weights="none", engine="cuda_graph")


def test_missing_openvino_says_what_to_install(monkeypatch):
    monkeypatch.setattr("s2robot.encoder.engines.openvino_precisions", list)
    with pytest.raises(ConfigError, match="pip install openvino"):
        S2Encoder("test_vit", scales=(64,), weights="none", engine="openvino")


def test_a_precision_the_cpu_lacks_is_refused(monkeypatch):
    monkeypatch.setattr("s2robot.encoder.engines.openvino_precisions", lambda: ["fp32"])
    with pytest.raises(ConfigError, match="this CPU does not compute in bf16; valid with openvino: fp32"):
        S2Encoder("test_vit", scales=(64,), weights="none", engine="openvino", precision="bf16")
