"""Features on disk, so that every frame is encoded once; keyed by encoder fingerprint × data × camera × augmentation.

A cache entry is a folder `<root>/<key>/`:

```
manifest.json    what the features are: fingerprints, camera, shape, number of frames, and readable names
features.f16     float16 [frames, numel], memory-mapped (see `FeatureShape.pack`)
blocks.jsonl     one line per finished block of 32 frames: index, SHA-256 of its bytes, and what encoded it
checked.json     size and times of features.f16 when its blocks were last known to be good
lock, in_use     locked by the process that writes, and by those that read
```

- A block is encoded in one call and recorded only after its bytes are on disk. So a build that is killed anywhere
  resumes, and on the same machine the result is bit-identical.
- A damaged block is found by its checksum and encoded again, without the others.
- Machines of several kinds may share an entry. Their features differ by rounding; each block records what encoded it.
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
