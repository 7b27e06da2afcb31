"""Bytes of dataset files: what their libraries raise for damaged ones, their hash, and pictures stored in them."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

# Exceptions that the libraries of all formats raise for damaged files, found by flipping bytes: a damaged shape asks
# for an absurd amount of memory, a damaged type has no counterpart in NumPy. Which one depends on the library version.
READ_ERRORS: tuple[type[Exception], ...] = (
    OSError,
    EOFError,
    ValueError,
    TypeError,
    AttributeError,
    LookupError,
    ArithmeticError,
    RuntimeError,
    MemoryError,
)


def hash_files(root: Path, files: Sequence[Path]) -> str:
    """Return the sha256 of the names in `root` and the bytes of all files; a single file counts by its bytes alone."""
    digests = {}
    for path in files:
        with path.open("rb") as file:
            digests[path] = hashlib.file_digest(file, "sha256").hexdigest()
    if len(digests) == 1:
        return next(iter(digests.values()))
    folder = root if root.is_dir() else root.parent
    lines = sorted(f"{path.relative_to(folder).as_posix()} {digest}" for path, digest in digests.items())
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def described(error: Exception) -> str:
    """Return the type and text of an error."""
    return f"{type(error).__name__}: {error}"


def decode_picture(data: bytes) -> np.ndarray:
    """Decode a JPEG or PNG image to uint8 [H, W, 3].

    Raises:
        OSError: the image cannot be decoded.
    """
    try:
        with Image.open(io.BytesIO(data)) as picture:
            return np.asarray(picture.convert("RGB"))
    # Damaged bytes raise any type: Pillow's own for a decompression bomb, SyntaxError for a broken PNG.
    except Exception as error:
        raise OSError(f"a picture cannot be decoded: {described(error)}") from error
