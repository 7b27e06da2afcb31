"""Every frame encoded once: features on disk, keyed by encoder fingerprint × data hash × camera × augmentation.

A cache entry is a folder `<root>/<key>/`:

```
manifest.json    what the features are: fingerprints, camera, shape, number of frames, and names for people
features.f16     float16 [frames, numel], memory-mapped (see `FeatureShape.flatten`)
blocks.jsonl     one line per finished block of 32 frames: its index, the sha256 of its bytes, what encoded it
checked.json     size and times of features.f16 when its blocks were last known to be good
lock, in_use     held by the process that writes, and by those that read
```

A block is encoded in one call and recorded only after its bytes are on disk, so that a build killed anywhere resumes
and, on the same machine, ends bit-identical, and a damaged block is found by its checksum and made again alone.
Machines of several kinds may share an entry: their features differ by rounding, and each block names its maker.
"""

from s2robot.feature_cache.build import CachedFeatures, cache_features
from s2robot.feature_cache.entry import BLOCK_FRAMES
from s2robot.feature_cache.housekeeping import EntryInfo, list_entries, prune, select_entries, verify

__all__ = [
    "BLOCK_FRAMES",
    "CachedFeatures",
    "EntryInfo",
    "cache_features",
    "list_entries",
    "prune",
    "select_entries",
    "verify",
]
