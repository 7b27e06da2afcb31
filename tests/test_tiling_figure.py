"""The picture of the tiling shows the tiles that the encoder runs."""

from __future__ import annotations

import numpy as np

from s2robot.s2 import ScaleSet
from s2robot.s2.figure import tiling_figure


def test_the_picture_numbers_every_tile_of_every_scale(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    figure = tiling_figure(image, ScaleSet((32, 64, 72), tile=32, cover="overlap"))
    titles = [axis.get_title() for axis in figure.axes]
    assert titles == ["32 × 32: 1 tile", "64 × 64: 4 tiles", "72 × 72: 9 tiles", "one map: 3·C × 7 × 7"]
    assert [len(axis.texts) for axis in figure.axes] == [1, 4, 9, 0]
    figure.savefig(tmp_path / "tiling.png")
    assert (tmp_path / "tiling.png").stat().st_size > 1000
