"""Writes whole files or none, reads JSON, and digests."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from onnxgraft.errors import InputError

CACHE = Path("build") / ".cache"


def write_json(path: Path, data: Any) -> None:
    path.write_text(json.dumps(data, indent=2, sort_keys=False, default=float) + "\n")


def digest(path: Path) -> str:
    """sha256 of a file, read in pieces."""
    state = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 22):
            state.update(chunk)
    return state.hexdigest()


def write_atomically(path: Path, content: bytes | memoryview | Callable[[BinaryIO], None]) -> None:
    """Write a whole file through a temporary one beside it; parents are made, the umask is honoured.

    Args:
        path: the file; an older one stays as it was until the new one is whole.
        content: its bytes (a buffer is not copied), or a function that writes them into the file it gets.

    Raises:
        InputError: the place cannot be written, in one line; nothing is left behind.
    """
    temporary = ""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        with os.fdopen(descriptor, "wb") as file:
            if callable(content):
                content(file)
            else:
                file.write(content)
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except BaseException as error:
        if temporary:
            Path(temporary).unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise InputError(f"{path} cannot be written: {error.strerror or error}") from error
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def check_writable(path: Path) -> None:
    """Make the folder of `path` and see that a file can be made there, before time is spent.

    Raises InputError in one line when it cannot.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise IsADirectoryError(21, "it is a folder")
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror or error}") from error
