"""Identity: what changes the features changes the fingerprint, and equal fingerprints mean equal features."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from s2robot.backbones import load_backbone
from s2robot.backbones.frozen import hash_state, hash_tensors
from s2robot.encoder import S2Encoder
from s2robot.encoder.engines import openvino_precisions
from s2robot.encoder.listing import encoder_text
from s2robot.interfaces import EncoderError

NORMALIZATION = {"mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25)}
SWIN = "swin_tiny_patch4_window7_224"


class Network(nn.Module):
    """A convolution that is the same in every instance, times `gain`."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 4, 8, 8)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.conv(images) * getattr(self, "gain", 1)


def with_buffer(value: float, persistent: bool = False) -> Network:
    network = Network()
    network.register_buffer("gain", torch.tensor(value), persistent=persistent)
    return network


class ExtraState(Network):
    def __init__(self, state: object) -> None:
        super().__init__()
        self.state = state

    def get_extra_state(self) -> object:
        return self.state

    def set_extra_state(self, state: object) -> None:
        self.state = state


class PartialStateDict(Network):
    """Leaves a parameter out of its state dict, as networks with adapters do."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(value))

    def state_dict(self, *args, **kwargs):
        state = super().state_dict(*args, **kwargs)
        return {key: value for key, value in state.items() if not key.endswith("gain")}


def parametrized(value: float) -> Network:
    network = Network()
    parametrizations.weight_norm(network.conv)
    with torch.no_grad():
        network.conv.parametrizations.weight.original0.mul_(value)
    return network


def encoder_of(network: nn.Module) -> S2Encoder:
    return S2Encoder.from_module(network, size=32, **NORMALIZATION)


@pytest.mark.parametrize(
    "pair",
    [
        (with_buffer(1.0), with_buffer(5.0)),
        (with_buffer(1.0, persistent=True), with_buffer(5.0, persistent=True)),
        (nn.Sequential(with_buffer(1.0)), nn.Sequential(with_buffer(5.0))),
        (PartialStateDict(1.0), PartialStateDict(5.0)),
        (parametrized(1.0), parametrized(5.0)),
    ],
    ids=["non-persistent buffer", "buffer", "nested buffer", "left out of the state dict", "parametrization"],
)
def test_networks_whose_features_differ_have_different_fingerprints(pair):
    images = torch.rand(1, 3, 64, 64)
    first, second = (encoder_of(network) for network in pair)
    assert not torch.allclose(first(images).map, second(images).map)
    assert first.fingerprint() != second.fingerprint()
    assert first.fingerprint() == encoder_of(copy.deepcopy(pair[0])).fingerprint()


@pytest.mark.filterwarnings("ignore::UserWarning")  # PyTorch deprecates its quantized tensors, which still exist
def test_tensors_whose_bytes_alone_do_not_tell_their_values_are_told_apart():
    def hashes(*values: torch.Tensor) -> int:
        networks = [Network() for _ in values]
        for network, value in zip(networks, values, strict=True):
            network.register_buffer("table", value, persistent=False)
        return len({hash_tensors(network) for network in networks})

    quantized = [torch.quantize_per_tensor(torch.tensor([value]), value / 10, 0, torch.qint8) for value in (1.0, 2.0)]
    assert torch.equal(*(value.int_repr() for value in quantized))
    assert hashes(*quantized) == 2
    eye, number = torch.eye(2), torch.tensor([1 + 2j])
    assert hashes(eye.to_sparse(), 2 * eye.to_sparse()) == hashes(eye.to_sparse_csr(), 2 * eye.to_sparse_csr()) == 2
    assert hashes(number, number.conj()) == hashes(number.imag, number.conj().imag) == 2
    assert hashes(number.conj(), number.conj().resolve_conj()) == hashes(eye, eye.t()) == 1


def test_extra_state_is_part_of_the_weights():
    states = [
        {"gain": torch.tensor(1.0)},
        {"gain": torch.tensor(5.0)},
        {"gain": 1.0},
        {"gain": [1.0]},
        {},
        "gain",
        None,
    ]
    assert len({hash_tensors(ExtraState(state)) for state in states}) == len(states)
    assert hash_tensors(ExtraState({"a": 1, "b": 2})) == hash_tensors(ExtraState({"b": 2, "a": 1}))


def test_extra_state_without_bytes_of_its_own_is_refused():
    with pytest.raises(EncoderError, match=r"extra state .*\[.x.\].* of type object.*numbers"):
        hash_tensors(ExtraState({"x": object()}))


@pytest.mark.parametrize("make", [tuple, torch.tensor, lambda values: np.asarray(values, np.float32)])
def test_normalisation_may_be_given_in_any_kind_of_number(make):
    normalization = {name: make(values) for name, values in NORMALIZATION.items()}  # exact in float32
    found = S2Encoder.from_module(Network(), size=32, **normalization)
    assert found.fingerprint() == encoder_of(Network()).fingerprint()
    assert torch.equal(found.normalize.scale, encoder_of(Network()).normalize.scale)


@pytest.mark.parametrize("change", ["weight", "buffer"])
def test_the_frozen_check_sees_what_moved(change):
    network = with_buffer(1.0)
    encoder = encoder_of(network)
    before = encoder.tensors_hash()
    assert encoder.tensors_hash() == before
    with torch.no_grad():
        (network.conv.weight if change == "weight" else network.gain).add_(1e-3)
    assert encoder.tensors_hash() != before


def test_tied_tensors_count_under_each_of_their_names():
    tied = nn.ModuleDict({"a": nn.Linear(3, 3), "b": nn.Linear(3, 3)})
    untied = copy.deepcopy(tied)
    tied["b"].weight = tied["a"].weight
    for name, value in {"a": 0.0, "b": 1.0}.items():
        nn.init.constant_(untied[name].weight, value)
    nn.init.constant_(tied["a"].weight, 0.0)
    assert hash_tensors(tied) != hash_tensors(untied)


@pytest.mark.parametrize("module", [nn.Conv2d(3, 4, 2), nn.BatchNorm1d(3), nn.Sequential(nn.Linear(2, 2), nn.ReLU())])
def test_without_non_persistent_buffers_the_hash_is_that_of_the_state_dict(module):
    module.register_buffer("absent", None, persistent=False)
    assert hash_tensors(module) == hash_state(module)


# timm's own tables of positions are non-persistent, and follow from the model's name and size.
@pytest.mark.parametrize("name", ["test_vit", SWIN, "eva02_tiny_patch14_224"])
def test_a_named_backbone_is_its_state_dict_whatever_its_size(name):
    native, sized = load_backbone(name, "none"), load_backbone(name, "none", size=112)
    assert native.weights_hash() == hash_state(load_backbone(name, "none").model) == sized.weights_hash()


@pytest.mark.parametrize(("name", "scales"), [("test_vit", (64, 128)), ("test_vit", (96, 48)), (SWIN, (112, 56))])
def test_features_do_not_depend_on_who_loaded_the_backbone(name, scales):
    torch.manual_seed(0)
    images = torch.rand(1, 3, 64, 64)
    loaded = load_backbone(name, "none")
    before = hash_tensors(loaded)
    by_name, by_object = S2Encoder(name, scales, weights="none"), S2Encoder(loaded, scales)
    assert by_object.fingerprint() == by_name.fingerprint()
    torch.testing.assert_close(by_object(images).map, by_name(images).map, rtol=1e-4, atol=1e-4)
    assert hash_tensors(loaded) == before  # the caller's own stays as it is
    size = loaded.size
    assert S2Encoder(loaded, (size,)).fingerprint() == S2Encoder(name, (size,), weights="none").fingerprint()


def test_an_encoder_shares_the_tensors_of_a_loaded_backbone():
    loaded = load_backbone("test_vit", "none")
    encoder = S2Encoder(loaded, (64, 128))
    shared = dict(loaded.named_parameters())
    own = [name for name, value in encoder.backbone.named_parameters() if value is not shared[name]]
    assert own == ["model.pos_embed"]


def test_positions_that_were_resampled_to_another_size_are_refused():
    loaded = load_backbone("test_vit", "none", size=128)
    assert S2Encoder(loaded, (128, 256)).backbone is loaded
    with pytest.raises(EncoderError, match="loaded for tiles of 128x128 pixels; for tiles of 64 load it with size=64"):
        S2Encoder(loaded, (64, 128))


@pytest.mark.skipif(not openvino_precisions(), reason="openvino is not installed")
def test_windows_are_the_same_in_every_engine_at_a_smaller_scale():
    torch.manual_seed(0)
    images = torch.rand(1, 3, 112, 112)
    eager, openvino = (S2Encoder(SWIN, (112, 56), weights="none", engine=engine) for engine in ("eager", "openvino"))
    found, expected = openvino(images).map, eager(images).map
    assert openvino.fingerprint() == eager.fingerprint()
    assert (found - expected).norm() < 1e-2 * expected.norm()  # other windows: 0.2


WINDOWED = {
    "maxvit_nano_rw_256": (224, "256"),
    "maxvit_tiny_tf_224": (256, "224, 448"),
    "coatnet_nano_rw_224": (256, "224"),
    "hiera_tiny_224": (256, "224"),
    "gcvit_xxtiny": (448, "224"),
    "halonet26t": (224, "256"),
    "mixer_s16_224": (128, "224"),
}


@pytest.mark.parametrize("name", WINDOWED)
def test_a_tile_that_does_not_fit_a_networks_windows_names_those_that_do(name):
    size, fitting = WINDOWED[name]
    message = rf"{name} cannot process tiles of {size}x{size} pixels; sizes that fit: {fitting} \("
    with pytest.raises(EncoderError, match=message):
        encoder_text(name, [[size]])
    for fits in fitting.split(", "):
        assert f"\n{fits} " in encoder_text(name, [[int(fits)]])


def test_images_and_shapes_name_the_tiles_that_fit_too():
    encoder = S2Encoder("maxvit_nano_rw_256", (224, 448), weights="none")
    for attempt in (lambda: encoder(torch.zeros(1, 3, 448, 448)), lambda: encoder.feature_shape(448, 448)):
        with pytest.raises(EncoderError, match="maxvit_nano_rw_256 cannot process tiles of 224x224.*fit: 256 "):
            attempt()


def test_an_error_that_is_not_one_of_size_stays_what_it_was():
    class Twice(Network):
        calls = 0

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            self.calls += 1
            if self.calls == 2:
                raise RuntimeError("out of luck")
            return super().forward(images)

    with pytest.raises(RuntimeError, match="^out of luck$"):
        encoder_of(Twice())(torch.zeros(1, 3, 32, 32))


@pytest.mark.parametrize("name", ["xcit_nano_12_p16_224", "efficientvit_m0", "convit_tiny"])
def test_families_that_state_patch_or_prefix_tokens_in_other_ways_are_read(name):
    assert " x 14 x 14 " in (text := encoder_text(name, [[224]])) or " x 4 x 4 " in text
