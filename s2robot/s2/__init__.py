"""S² itself: pure functions from images and a single-scale model to one multi-scale feature map.

The algorithm is from "When Do We Not Need Larger Vision Models?" (arXiv 2403.13043, section 2). Resize the image to
every size of a scale set, cut each resized image into tiles of the base size, and run the same model on all tiles. Put
each scale's feature maps together again, average-pool them to one grid and concatenate their channels.
"""

from s2robot.s2.forward import TileOutput, as_map_and_prefix, forward_tiles, multiscale_forward, multiview_forward
from s2robot.s2.scale_set import ScaleOptions, ScaleSet, resize
from s2robot.s2.tiling import Size, Tiling, merge_tiles, split_tiles

__all__ = [
    "ScaleOptions",
    "ScaleSet",
    "Size",
    "TileOutput",
    "Tiling",
    "as_map_and_prefix",
    "forward_tiles",
    "merge_tiles",
    "multiscale_forward",
    "multiview_forward",
    "resize",
    "split_tiles",
]
