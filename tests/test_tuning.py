"""Recommended settings: measured on this machine, never outside the tolerance, never applied silently."""

from __future__ import annotations

import pytest
import torch

from s2robot.backbones import load_backbone
from s2robot.encoder import S2Encoder, tuning
from s2robot.encoder.tuning import measure_settings, recommend_settings, relative_error, time_in_turn
from s2robot.interfaces import Features


@pytest.fixture(scope="module")
def backbone():
    return load_backbone("test_convnext", weights="none")


@pytest.fixture(scope="module")
def images():
    torch.manual_seed(0)
    return torch.rand(2, 3, 128, 128)


@pytest.fixture(scope="module")
def rows(backbone, images):
    return measure_settings(backbone, images, (64, 128), engines=["eager"], repeats=2)


def test_all_combinations_are_measured_and_the_fastest_comes_first(rows):
    combinations = {(row.precision, row.channels_last) for row in rows}
    assert len(rows) == len(combinations) == 6
    assert [row.milliseconds for row in rows] == sorted(row.milliseconds for row in rows)
    errors = {row.precision: row.error for row in rows if not row.channels_last}
    assert errors["fp32"] == 0
    assert 0 < errors["fp16"] < errors["bf16"] < 0.1


@pytest.mark.parametrize("tolerance", [0.0, 1e-3, 0.1])
def test_recommended_settings_are_the_fastest_within_the_tolerance(backbone, images, rows, tolerance, monkeypatch):
    monkeypatch.setattr(tuning, "measure_settings", lambda *_, **__: rows)
    row = recommend_settings(backbone, images, (64, 128), tolerance)
    assert row.error <= tolerance
    assert all(other.error > tolerance for other in rows[: rows.index(row)])
    features = S2Encoder(backbone, (64, 128), **row.settings)(images)
    error = relative_error(features, S2Encoder(backbone, (64, 128))(images))
    assert error == pytest.approx(row.error, rel=0.1, abs=1e-5)


def test_float32_is_recommended_also_where_it_does_not_repeat_itself(backbone, images, monkeypatch):
    monkeypatch.setattr(tuning, "relative_error", lambda features, expected: 1e-7)  # not even to itself
    row = recommend_settings(backbone, images, (64,), tolerance=0.0, engines=["eager"], repeats=1)
    assert row.settings == {"engine": "eager", "precision": "fp32", "channels_last": False}


def test_relative_error_counts_map_and_prefix_tokens():
    expected = Features(torch.tensor([3.0]), torch.tensor([4.0]))
    assert relative_error(Features(torch.tensor([3.0]), torch.tensor([4.5])), expected) == pytest.approx(0.1)


def test_functions_are_timed_in_turn():
    calls = []
    times = time_in_turn([lambda: calls.append("a"), lambda: calls.append("b")], repeats=2)
    assert "".join(calls) == "ababab"
    assert [len(row) for row in times] == [2, 2]
