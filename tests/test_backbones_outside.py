"""Backbones of installed packages: the contract of a row, and the two networks of plugins/s2robot_backbones."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import os
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import timm
import timm.layers
import timm.models
import torch
from helpers import offer, write_dataset
from installed import install, run_verbs, run_with
from torch import Tensor, nn

from s2robot.backbones import BackboneSpec, Network, load_backbone, table
from s2robot.benchmark.cells import encoder_settings
from s2robot.config import EncoderConfig
from s2robot.encoder import S2Encoder
from s2robot.encoder.listing import encoder_text
from s2robot.interfaces import EncoderError, WeightsError

PLUGIN = Path(__file__).parents[1] / "plugins" / "s2robot_backbones"


@pytest.fixture(scope="module")
def rows():
    """The rows of the plug-in, imported from where they stand."""
    sys.path.insert(0, str(PLUGIN))
    try:
        from s2robot_backbones import rows

        yield rows
    finally:
        sys.path.remove(str(PLUGIN))


def randomized(network: nn.Module) -> nn.Module:
    """A network in which every tensor matters and no signal vanishes, whatever the initial values were."""
    torch.manual_seed(0)
    with torch.no_grad():
        for name, value in network.state_dict().items():
            if value.is_floating_point() and value.dim() > 1 and not name.endswith(("beta", "biases", "act.1.gamma")):
                value.copy_(torch.randn_like(value) / value[0].numel() ** 0.5)
            elif value.is_floating_point():
                value.copy_(torch.rand_like(value) + 0.5)
    return network.eval()


def close(found: Tensor, expected: Tensor) -> None:
    assert expected.std() > 1e-3
    assert (found - expected).norm() < 1e-4 * expected.norm()


# A small network of a package --------------------------------------------------------------------------------------


class Tiny(nn.Module):
    def __init__(self, stride: int = 8) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 8, stride)

    def forward(self, images: Tensor) -> Tensor:
        return self.conv(images)


TINY = BackboneSpec(
    "tiny",
    "",
    "Tiny",
    "fetched",
    "MIT",
    size=32,
    mean=(0.5,) * 3,
    std=(0.25,) * 3,
    network=Network(Tiny, version="1", convert=lambda state: {k: v for k, v in state.items() if "head" not in k}),
)


def test_a_network_of_a_package_is_an_encoder_by_its_name(monkeypatch):
    offer(monkeypatch, TINY)
    encoder = S2Encoder("tiny", (32, 64), weights="none")
    assert encoder(torch.rand(2, 3, 64, 64)).map.shape == (2, 8, 4, 4)
    assert encoder.describe() == "tiny {32, 64}"
    text = encoder_text("tiny", [[32], [32, 64]])
    assert "Tiny, 0.0 M parameters, native size 32, MIT" in text
    assert " 8 x 4 x 4 " in text


def test_its_weights_are_a_file_read_strictly(monkeypatch, tmp_path):
    offer(monkeypatch, TINY)
    state = Tiny().state_dict()
    torch.save({"model": {**state, "head.weight": torch.zeros(2)}}, tmp_path / "tiny.pth")
    for weights in (tmp_path, tmp_path / "tiny.pth"):
        loaded = load_backbone("tiny", str(weights))
        assert torch.equal(loaded.model.conv.weight, state["conv.weight"])
    torch.save({"conv.weight": state["conv.weight"]}, tmp_path / "tiny.pth")
    with pytest.raises(
        WeightsError, match=r"tiny.pth is a checkpoint of a different.*Missing: conv.bias. Unexpected: none"
    ):
        load_backbone("tiny", str(tmp_path))


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ("default", "run `s2robot encoders fetch tiny`"),
        ("hub", "timm's hub has no weights for tiny"),
        ("package", "no pip package ships them"),
    ],
)
def test_weights_that_are_not_here_are_named(tmp_path, monkeypatch, weights, message):
    monkeypatch.setenv("S2ROBOT_CACHE", str(tmp_path))
    offer(monkeypatch, TINY)
    with pytest.raises(WeightsError, match=message):
        load_backbone("tiny", weights)


def fingerprint(monkeypatch: pytest.MonkeyPatch, name: str = "tiny", mean: float = 0.5, **network: object) -> str:
    row = replace(TINY, name=name, mean=(mean,) * 3, network=replace(TINY.network, **network))
    offer(monkeypatch, row)
    return S2Encoder(name, (32, 64), weights="none").fingerprint()


def test_its_fingerprint_depends_on_weights_structure_version_and_name(monkeypatch):
    class Strided(Tiny):
        def __init__(self) -> None:
            super().__init__(stride=4)

    class Louder(Tiny):
        def __init__(self) -> None:
            super().__init__()
            nn.init.constant_(self.conv.bias, 1.0)

    Louder.__qualname__ = Louder.__name__ = Strided.__qualname__ = Strided.__name__ = "Tiny"
    changes = [{}, {"version": "2"}, {"build": Strided}, {"build": Louder}, {"name": "other"}, {"mean": 0.4}]
    assert len({fingerprint(monkeypatch, **change) for change in changes}) == len(changes)
    assert fingerprint(monkeypatch) == fingerprint(monkeypatch)


def test_cells_of_a_benchmark_are_others_where_the_features_have_another_version(monkeypatch):
    settings = []
    for version in ("1", "2"):
        offer(monkeypatch, replace(TINY, network=replace(TINY.network, version=version)))
        settings.append(encoder_settings(EncoderConfig(backbone="tiny", weights="none")))
    assert settings[0] != settings[1]
    own = EncoderConfig(backbone="test_vit", weights="none")
    assert encoder_settings(own) == asdict(own)


def test_what_finishing_a_network_rounds_is_no_part_of_its_fingerprint(monkeypatch):
    def finish(network: nn.Module) -> nn.Module:
        network.conv.weight.mul_(1 + 1e-6)
        return nn.Sequential(network)

    assert fingerprint(monkeypatch, finish=finish) == fingerprint(monkeypatch)


@pytest.mark.parametrize("lacking", [{"mean": None}, {"std": None}, {"size": 0}, {"timm_name": "resnet18"}])
def test_a_row_that_says_too_little_of_its_network_is_refused(lacking):
    with pytest.raises(EncoderError, match="'tiny' has its own network: set size, mean and std, and leave timm_name"):
        replace(TINY, **lacking)


BROKEN = """
import torch
from s2robot.backbones import BackboneSpec, Network

def build():
    return torch.nn.Conv2d(3, 4, 8, 8)

good = BackboneSpec("other name", "", "Good", "fetched", "MIT", 32, 4, mean=(0.5,) * 3, std=(0.25,) * 3,
                    network=Network(build, version="1"))
something = 5
"""
LOOK = """
import json, logging, sys
logging.basicConfig(stream=sys.stderr, format="%(message)s")
from s2robot.backbones import find_spec
from s2robot.encoder.listing import encoders_table
from s2robot.interfaces import S2RobotError
errors = {}
for name in ("number", "absent"):
    try:
        find_spec(name)
    except S2RobotError as error:
        errors[name] = str(error)
table, documented = encoders_table(), encoders_table(markdown=True)
print(json.dumps({"errors": errors, "table": table, "documented": documented, "name": find_spec("good").name}))
"""


def test_a_package_whose_row_is_broken_is_named_and_keeps_nobody_from_the_others(tmp_path):
    points = {"good": "bb:good", "number": "bb:something", "absent": "bb:absent"}
    install(tmp_path, "bb", BROKEN, {"s2robot.backbones": points})
    done = run_with(tmp_path, "-c", LOOK)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert "'number' of bb 1.2 is of type int" in found["errors"]["number"]
    assert "'absent' of bb 1.2 cannot be imported from 'bb:absent'" in found["errors"]["absent"]
    assert done.stderr.count("it is left out of the list") >= 2
    assert found["name"] == "good"  # the entry point's, by which it is asked for
    listed = [line.split()[0] for line in found["table"].splitlines() if line]
    assert "good" in listed
    assert not {"number", "absent"} & set(listed)
    assert "Good" not in found["documented"]  # the documentation is the same on every machine


# The two networks --------------------------------------------------------------------------------------------------


def norm_of(name: str, width: int) -> dict[str, tuple[int, ...]]:
    parts = ("weight", "bias", "running_mean", "running_var")
    return {**{f"{name}.{part}": (width,) for part in parts}, f"{name}.num_batches_tracked": ()}


def conv_of(name: str, *shape: int, bias: bool = True) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": shape, **({f"{name}.bias": shape[:1]} if bias else {})}


def unireplknet_layout() -> dict[str, tuple[int, ...]]:
    """Names and shapes of unireplknet_a_in1k_224_acc77.03.pth: the network as trained, with its classifier."""
    shapes = {
        **conv_of("downsample_layers.0.0", 20, 3, 3, 3),
        **conv_of("downsample_layers.0.1", 20),
        **conv_of("downsample_layers.0.3", 40, 20, 3, 3),
        **conv_of("downsample_layers.0.4", 40),
        **conv_of("norm", 320),
        **conv_of("head", 1000, 320),
    }
    for stage, (width, depth) in enumerate(zip((40, 80, 160, 320), (2, 2, 6, 2), strict=True)):
        if stage:
            shapes |= conv_of(f"downsample_layers.{stage}.0", width, width // 2, 3, 3)
            shapes |= conv_of(f"downsample_layers.{stage}.1", width)
        for block in (f"stages.{stage}.{index}" for index in range(depth)):
            if stage == 0:
                shapes |= conv_of(f"{block}.dwconv", width, 1, 3, 3, bias=False)
            else:
                shapes |= conv_of(f"{block}.dwconv.lk_origin", width, 1, 13, 13, bias=False)
                shapes |= norm_of(f"{block}.dwconv.origin_bn", width)
                for branch, side in {"k5_1": 5, "k7_2": 7, "k3_3": 3, "k3_4": 3, "k3_5": 3}.items():
                    shapes |= conv_of(f"{block}.dwconv.dil_conv_{branch}", width, 1, side, side, bias=False)
                    shapes |= norm_of(f"{block}.dwconv.dil_bn_{branch}", width)
            shapes |= norm_of(f"{block}.norm", width)
            shapes |= conv_of(f"{block}.se.down", width // 4, width, 1, 1)
            shapes |= conv_of(f"{block}.se.up", width, width // 4, 1, 1)
            shapes |= conv_of(f"{block}.pwconv1.1", 4 * width, width)
            shapes |= {f"{block}.act.1.{name}": (1, 1, 1, 4 * width) for name in ("gamma", "beta")}
            shapes |= conv_of(f"{block}.pwconv2.0", width, 4 * width, bias=False)
            shapes |= norm_of(f"{block}.pwconv2.2", width)
            shapes |= {f"{block}.gamma": (width,)}
    return shapes


def normed(name: str, *shape: int) -> dict[str, tuple[int, ...]]:
    return {**conv_of(f"{name}.c", *shape, bias=False), **norm_of(f"{name}.bn", shape[0])}


def lsnet_layout() -> dict[str, tuple[int, ...]]:
    """Names and shapes of lsnet_t.pth, with its classifier."""
    shapes = {**norm_of("head.bn", 384), **conv_of("head.l", 1000, 384)}
    for index, (inputs, outputs) in enumerate(((3, 16), (16, 32), (32, 64))):
        shapes |= normed(f"patch_embed.{2 * index}", outputs, inputs, 3, 3)
    for stage, (width, depth) in enumerate(zip((64, 128, 256, 384), (0, 2, 8, 10), strict=True)):
        former = (64, 64, 128, 256)[stage]
        if stage:
            shapes |= normed(f"blocks{stage + 1}.0", former, 1, 3, 3)
            shapes |= normed(f"blocks{stage + 1}.1", width, former, 1, 1)
        for index in range(depth):
            block = f"blocks{stage + 1}.{index + 2}"
            shapes |= normed(f"{block}.ffn.m.pw1", 2 * width, width, 1, 1)
            shapes |= normed(f"{block}.ffn.m.pw2", width, 2 * width, 1, 1)
            if index % 2 == 0:
                shapes |= normed(f"{block}.mixer.conv", width, 1, 3, 3)
                shapes |= normed(f"{block}.mixer.conv1", width, 1, 1, 1)
                shapes |= conv_of(f"{block}.se.fc1", width // 4, width, 1, 1)
                shapes |= conv_of(f"{block}.se.fc2", width, width // 4, 1, 1)
            elif stage == 3:
                shapes |= {f"{block}.mixer.m.attention_biases": (4, 16)}
                shapes |= {f"{block}.mixer.m.attention_bias_idxs": (16, 16)}
                shapes |= normed(f"{block}.mixer.m.qkv", 512, 384, 1, 1)
                shapes |= normed(f"{block}.mixer.m.proj.1", 384, 384, 1, 1)
                shapes |= normed(f"{block}.mixer.m.dw", 64, 1, 3, 3)
            else:
                half, kernels = width // 2, 9 * width // 8
                shapes |= normed(f"{block}.mixer.lkp.cv1", half, width, 1, 1)
                shapes |= normed(f"{block}.mixer.lkp.cv2", half, 1, 7, 7)
                shapes |= normed(f"{block}.mixer.lkp.cv3", half, half, 1, 1)
                shapes |= conv_of(f"{block}.mixer.lkp.cv4", kernels, half, 1, 1)
                shapes |= conv_of(f"{block}.mixer.lkp.norm", kernels)
                shapes |= norm_of(f"{block}.mixer.bn", width)
    return shapes


LAYOUTS = {"unireplknet_a": unireplknet_layout, "lsnet_t": lsnet_layout}


def state_of(layout: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
    torch.manual_seed(1)
    whole = {"num_batches_tracked": torch.int64, "attention_bias_idxs": torch.int64}
    return {
        name: torch.zeros(shape, dtype=torch.int64) if name.endswith(tuple(whole)) else torch.rand(shape) + 0.1
        for name, shape in layout.items()
    }


@pytest.mark.parametrize("name", LAYOUTS)
def test_the_authors_checkpoint_is_loaded_strictly(rows, monkeypatch, tmp_path, name):
    offer(monkeypatch, getattr(rows, name.upper()))
    layout = LAYOUTS[name]()
    classifier = {key for key in layout if key.startswith("head")}
    assert {
        key: tuple(value.shape) for key, value in getattr(rows, name.upper()).network.build().state_dict().items()
    } == {key: shape for key, shape in layout.items() if key not in classifier}
    state = state_of(layout)
    path = tmp_path / f"{name}.pth"
    torch.save({"model": state, "epoch": 300}, path)
    assert load_backbone(name, str(path)).weights_hash() == load_backbone(name, str(tmp_path)).weights_hash()
    missing = next(key for key in state if key.endswith("se.down.weight" if name == "unireplknet_a" else "cv4.weight"))
    torch.save({key: value for key, value in state.items() if key != missing}, path)
    with pytest.raises(WeightsError, match=f"Missing: {missing}. Unexpected: none"):
        load_backbone(name, str(path))
    torch.save({**state, "extra": torch.zeros(1)}, path)
    with pytest.raises(WeightsError, match="Missing: none. Unexpected: extra"):
        load_backbone(name, str(path))


# The papers' tables, 2311.15599 (of the inference structure) and 2503.23135.
@pytest.mark.parametrize(
    ("name", "classifier", "millions", "gmacs"),
    [("unireplknet_a", 321 * 1000, 4.4, 0.6), ("lsnet_t", 385 * 1000 + 768, 11.4, 0.3)],
)
def test_the_networks_are_as_large_as_their_papers_say(rows, monkeypatch, name, classifier, millions, gmacs):
    offer(monkeypatch, getattr(rows, name.upper()))
    cost = S2Encoder(name, (224,), weights="none").cost()
    assert round((cost.parameters + classifier) / 1e6, 1) == millions
    assert round(cost.gmacs, 1) == gmacs
    assert cost.shape.channels == table.find_spec(name).width
    assert round(cost.parameters / 1e6, 1) == table.find_spec(name).parameters


def test_merged_branches_compute_what_they_computed_apart(rows):
    from s2robot_backbones.unireplknet import DilatedReparamBlock

    network = randomized(rows.UNIREPLKNET_A.network.build())
    images = torch.randn(1, 3, 96, 64)
    with torch.no_grad():
        expected = network(images)
        merged = rows.UNIREPLKNET_A.network.finish(network)
        assert not any(isinstance(module, DilatedReparamBlock | nn.BatchNorm2d) for module in branches_of(merged))
        close(merged(images), expected)


def branches_of(network: nn.Module) -> list[nn.Module]:
    return [module for name, module in network.named_modules() if ".pwconv2" not in name]


def test_aggregation_is_a_weighted_sum_around_every_position(rows):
    from s2robot_backbones.lsnet import aggregate

    torch.manual_seed(0)
    features, kernels = torch.randn(2, 16, 5, 6), torch.randn(2, 2, 9, 5, 6)
    found, padded = aggregate(features, kernels), torch.nn.functional.pad(features, (1, 1, 1, 1))
    for channel, row, column in [(0, 0, 0), (1, 2, 3), (14, 4, 5), (15, 3, 0)]:
        around = padded[1, channel, row : row + 3, column : column + 3]
        expected = (around * kernels[1, channel % 2, :, row, column].reshape(3, 3)).sum()
        torch.testing.assert_close(found[1, channel, row, column], expected)


def test_tiles_that_do_not_fit_lsnets_attention_are_named(rows, monkeypatch):
    offer(monkeypatch, rows.LSNET_T)
    with pytest.raises(EncoderError, match="lsnet_t cannot process tiles of 160x160 pixels; sizes that fit: 224 "):
        encoder_text("lsnet_t", [[160]])


def test_attention_looks_up_the_distance_of_every_pair(rows):
    from s2robot_backbones.lsnet import _distances

    found = _distances(3)
    assert found.shape == (9, 9)
    assert torch.equal(found, found.T)
    assert found[0].tolist() == list(range(9))  # from the corner all distances are different
    assert found[4].tolist() == [4, 3, 4, 1, 0, 1, 4, 3, 4]


def authors_module(path: str, **stand_ins: object) -> ModuleType:
    """The authors' file, with the module paths of the timm that it was written for; `stand_ins` are beside it."""
    registry = ModuleType("timm.models.registry")
    registry.register_model = lambda function: function
    beside = {f"authors.{name}": SimpleNamespace(**{name.upper(): value}) for name, value in stand_ins.items()}
    names = {
        "timm.models.layers": timm.layers,
        "timm.models.registry": registry,
        "timm.models.helpers": timm.models,
        "authors": ModuleType("authors"),
        **beside,
    }
    before = {name: sys.modules.get(name) for name in names}
    sys.modules.update(names)
    try:
        spec = importlib.util.spec_from_file_location("authors.code", path)
        module = importlib.util.module_from_spec(spec)
        with contextlib.redirect_stdout(io.StringIO()):
            spec.loader.exec_module(module)
        return module
    finally:
        for name, value in before.items():
            sys.modules.pop(name) if value is None else sys.modules.update({name: value})


@pytest.mark.skipif(
    "UNIREPLKNET" not in os.environ, reason="UNIREPLKNET: path of unireplknet.py of github.com/AILab-CVC/UniRepLKNet"
)
def test_unireplknet_agrees_with_its_authors_code(rows):
    module = authors_module(os.environ["UNIREPLKNET"])
    with contextlib.redirect_stdout(io.StringIO()):
        theirs = randomized(module.unireplknet_a(attempt_use_lk_impl=False))
    assert {name: tuple(value.shape) for name, value in theirs.state_dict().items()} == unireplknet_layout()
    network = rows.UNIREPLKNET_A.network
    ours = network.build().eval()
    ours.load_state_dict(network.convert(theirs.state_dict()))
    images = torch.randn(2, 3, 160, 128)
    with torch.no_grad():
        expected = images
        for downsample, stage in zip(theirs.downsample_layers, theirs.stages, strict=True):
            expected = stage(downsample(expected))
        expected = theirs.norm(expected.movedim(1, -1)).movedim(-1, 1)
        close(ours(images), expected)
        close(network.finish(ours)(images), expected)


class LoopedAggregation(nn.Module):
    """What the authors' Triton kernel computes, position by position of the small kernels."""

    def forward(self, x: Tensor, kernels: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        padded, total = torch.nn.functional.pad(x, (1, 1, 1, 1)), torch.zeros_like(x)
        for channel in range(x.shape[1]):
            for index in range(9):
                row, column = divmod(index, 3)
                seen = padded[:, channel, row : row + height, column : column + width]
                total[:, channel] += seen * kernels[:, channel % kernels.shape[1], index]
        return total


@pytest.mark.skipif("LSNET" not in os.environ, reason="LSNET: path of model/lsnet.py of github.com/jameslahm/lsnet")
def test_lsnet_agrees_with_its_authors_code(rows):
    module = authors_module(os.environ["LSNET"], ska=LoopedAggregation)
    theirs = module.LSNet(patch_size=8, embed_dim=[64, 128, 256, 384], depth=[0, 2, 8, 10], num_heads=[3, 3, 3, 4])
    theirs = randomized(theirs).train().eval()  # its attention looks biases up on this way
    assert {name: tuple(value.shape) for name, value in theirs.state_dict().items()} == lsnet_layout()
    network = rows.LSNET_T.network
    ours = network.build().eval()
    ours.load_state_dict(network.convert(theirs.state_dict()))
    images = torch.randn(2, 3, 224, 256)
    with torch.no_grad():
        expected = theirs.patch_embed(images)
        for blocks in (theirs.blocks1, theirs.blocks2, theirs.blocks3, theirs.blocks4):
            expected = blocks(expected)
        close(ours(images), expected)


# In an environment of its own --------------------------------------------------------------------------------------

TRAIN = ("training.epochs=1", "training.batch_size=32", "training.warmup_steps=1")


def test_an_installed_package_is_listed_and_trained_with(tmp_path):
    site = tmp_path / "site"
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "--target", str(site), str(PLUGIN)], check=True, capture_output=True)
    dataset = write_dataset(tmp_path / "demos.hdf5")
    settings = ("encoder=unireplknet_a", "encoder.weights=none", "encoder.scales=[32,64]", "policy=bc", *TRAIN)
    output = tmp_path / "run"
    told = run_verbs(site, ["encoders"], ["train", f"dataset={dataset}", f"output={output}", *settings])
    assert {"lsnet_t", "unireplknet_a"} <= {line.split()[0] for line in told.splitlines() if line}
    saved = json.loads((output / "checkpoint" / "config.json").read_text())
    assert saved["config"]["encoder"]["backbone"] == "unireplknet_a"
    assert saved["packages"] == {"backbone unireplknet_a": "s2robot_backbones 0.1.0"}
