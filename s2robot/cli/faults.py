"""Errors of the machine, such as a full disk: neither raised by this package nor bugs in it."""

from __future__ import annotations

import errno
import os
from pathlib import Path

_FULL = (errno.ENOSPC, errno.EDQUOT)


def explain(error: Exception) -> str | None:
    """Return one line for an error that a user can fix: an unusable path, a full disk, too little memory.

    Any other error is a bug and gives None.
    """
    first_line = str(error).partition("\n")[0]
    if _is_memory(error, first_line):
        request = first_line.rpartition("DefaultCPUAllocator: ")[2] or type(error).__name__
        return (
            f"not enough memory: {request}; reduce training.batch_size, encoder.max_tiles or the sizes in "
            "encoder.scales"
        )
    if not isinstance(error, OSError) or error.errno is None:
        return None
    if isinstance(error, FileExistsError) and error.filename is not None and Path(error.filename).is_file():
        return f"{error.filename!r} is a file, but a folder is needed; give another path"
    reason = os.strerror(error.errno)  # h5py's own message is a page long
    if error.filename is not None:
        return f"{error.filename!r} cannot be read or written: {reason}"
    return f"the results cannot be written: {reason}" if error.errno in _FULL else None


def _is_memory(error: Exception, first_line: str) -> bool:
    """Whether memory ran out. PyTorch raises a plain RuntimeError for this on a CPU and a subclass of it on a GPU."""
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    told = "can't allocate memory" in first_line or "out of memory" in first_line
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and told)
