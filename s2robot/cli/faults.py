"""What the machine says when it cannot do what was asked: errors that are neither this package's own nor its bugs."""

from __future__ import annotations

import errno
import os
from pathlib import Path

_FULL = (errno.ENOSPC, errno.EDQUOT)


def explain(error: Exception) -> str | None:
    """One line for an error that a user can mend: a path that cannot be used, a full disk, too little memory.

    None for any other error, which is a bug.
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
    reason = os.strerror(error.errno)  # h5py's own is a page
    if error.filename is not None:
        return f"{error.filename!r} cannot be read or written: {reason}"
    return f"the results cannot be written: {reason}" if error.errno in _FULL else None


def _is_memory(error: Exception, first_line: str) -> bool:
    """Whether memory ran out, which PyTorch says with a plain RuntimeError on a CPU and its subclass on a GPU."""
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    told = "can't allocate memory" in first_line or "out of memory" in first_line
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and told)
