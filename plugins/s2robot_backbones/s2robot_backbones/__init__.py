"""UniRepLKNet-A and LSNet-T as backbones of s2robot."""
