"""What holds between processes: locks that end with their owner, a swap of folders, and what the killed left behind."""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import stat
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

try:
    import fcntl
except ImportError:  # not on this system: nobody is told that another process writes
    fcntl = None  # type: ignore[assignment]

_SCRATCH = "onnxgraft-"
_LOCK = ".lock"
_RANDOM = r"[a-z0-9_]{8}"  # what tempfile ends its names with
_WAIT_SECONDS, _STEP_SECONDS = 1.0, 0.01  # for the two renames of another process


def lock(path: Path) -> int | None:
    """Take the lock file `path`, which is made if need be; the lock ends with the process at the latest.

    Returns:
        A descriptor for `unlock`, or None when a living process holds the lock.

    Raises:
        OSError: the file cannot be made.
    """
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        if not _locked(descriptor):
            os.close(descriptor)
            return None
        if _is(descriptor, path):
            with suppress(OSError):  # the disk is full: whoever waits is not told whom for
                os.ftruncate(descriptor, 0)
                os.write(descriptor, str(os.getpid()).encode())
            return descriptor
        os.close(descriptor)  # its owner removed it meanwhile


def owner(path: Path) -> str:
    """The process that holds a lock file, for a message; "unknown" where it does not say."""
    try:
        return path.read_text() or "unknown"
    except (OSError, UnicodeDecodeError):
        return "unknown"


def unlock(descriptor: int, path: Path) -> None:
    """Remove a lock file that `lock` took, and give the lock up."""
    path.unlink(missing_ok=True)
    os.close(descriptor)


def _locked(descriptor: int) -> bool:
    """Lock an open file; False when another process did. Where the file system has no locks, everybody gets them."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def _is(descriptor: int, path: Path) -> bool:
    """Whether `path` still names the open file."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.lstat(path))
    except FileNotFoundError:
        return False


def open_beside(path: Path) -> tuple[int, Path]:
    """An empty file beside `path` that no living process writes, so that it can take the place of `path` when it is whole.

    Its name is always the same, so that a killed process leaves one file at most, which the next writer takes over; only
    while another process writes it, the name is another. Keep it open until it has been renamed: closing gives it up.

    Raises:
        OSError: it cannot be made.
    """
    usual = path.with_name(f".{path.name}.part")
    try:
        descriptor = os.open(usual, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o600)
    except OSError:
        descriptor = -1  # somebody else's file, a link or a folder: another name may do
    if descriptor >= 0:
        state = os.fstat(descriptor)
        ours = stat.S_ISREG(state.st_mode) and state.st_nlink == 1 and state.st_uid == os.geteuid()
        if fcntl is not None and ours and _locked(descriptor) and _is(descriptor, usual):
            os.ftruncate(descriptor, 0)
            return descriptor, usual
        os.close(descriptor)
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    return descriptor, Path(name)


def umask() -> int:
    """The permissions that new files and folders of this process do not get."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


@contextmanager
def scratch() -> Iterator[Path]:
    """A temporary folder for as long as the block runs; folders of processes that were killed are removed first."""
    parent = Path(tempfile.gettempdir())
    for left in parent.glob(f"{_SCRATCH}*"):
        _collect(left)
    with tempfile.TemporaryDirectory(prefix=_SCRATCH) as name:
        place = Path(name) / _LOCK
        descriptor = lock(place)
        try:
            yield Path(name)
        finally:
            if descriptor is not None:
                unlock(descriptor, place)


def _collect(folder: Path) -> None:
    """Remove a scratch folder of this user whose process is dead."""
    try:
        state = folder.lstat()
        if fcntl is None or not stat.S_ISDIR(state.st_mode) or state.st_uid != os.geteuid() or not (folder / _LOCK).is_file():
            return
        descriptor = lock(folder / _LOCK)
    except OSError:
        return
    if descriptor is not None:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(descriptor)


def new_beside(place: Path) -> Path:
    """A new folder beside `place` that is to take its place. Raises OSError."""
    return Path(tempfile.mkdtemp(prefix=f".{place.name}.new-", dir=place.parent))


def lock_beside(place: Path) -> Path:
    """The lock file of those who replace `place`."""
    return place.with_name(f".{place.name}{_LOCK}")


def collect_beside(place: Path) -> None:
    """Bring back or remove what processes that were killed while they replaced `place` left. Its lock must be held.

    Raises:
        OSError: the previous folder cannot be brought back.
    """
    old = _aside(place)
    if old.is_dir() and not place.exists():
        os.rename(old, place)
    if not place.parent.is_dir():
        return
    made = re.compile(rf"\.{re.escape(place.name)}\.new-{_RANDOM}")
    for path in list(place.parent.iterdir()):
        if path == old or made.fullmatch(path.name):
            shutil.rmtree(path, ignore_errors=True)


def swap(new: Path, place: Path, exchange: Callable[[Path, Path], bool] | None = None) -> None:
    """Put the folder `new` where `place` is, or may be; the previous one is removed.

    Linux and macOS exchange two folders in one step, so that `place` is whole at every moment. Elsewhere a process that is
    killed between two renames leaves the previous folder aside, and `recover` brings it back.

    Args:
        new: the folder, beside `place`.
        place: a folder, or nothing yet.
        exchange: another way to exchange two folders; False where the system has none.

    Raises:
        OSError: the place cannot be written.
    """
    if not place.exists():
        os.rename(new, place)
    elif (exchange or _exchange)(new, place):
        shutil.rmtree(new, ignore_errors=True)
    else:
        old = _aside(place)
        os.rename(place, old)
        os.rename(new, place)
        shutil.rmtree(old, ignore_errors=True)


def recover(place: Path) -> None:
    """Bring a folder back that a process killed within `swap` left aside; does nothing when `place` is there."""
    place = place.absolute()
    waited = 0.0
    while not place.exists() and _aside(place).is_dir() and waited < _WAIT_SECONDS:
        try:
            descriptor = lock(lock_beside(place))
        except OSError:
            return
        if descriptor is not None:
            try:
                if not place.exists() and _aside(place).is_dir():
                    os.rename(_aside(place), place)
            finally:
                unlock(descriptor, lock_beside(place))
            return
        time.sleep(_STEP_SECONDS)
        waited += _STEP_SECONDS


def is_folder(place: Path) -> bool:
    """Whether there is a folder, once one that a killed process left aside is back."""
    recover(place)
    return place.is_dir()


def _aside(place: Path) -> Path:
    return place.with_name(f".{place.name}.old")


def _exchange(first: Path, second: Path) -> bool:
    """Exchange two folders in one step; False where this system or file system cannot."""
    library = ctypes.CDLL(None, use_errno=True)
    names = os.fsencode(first), os.fsencode(second)
    if sys.platform == "darwin":
        rename, arguments = getattr(library, "renamex_np", None), (*names, ctypes.c_uint(2))  # RENAME_SWAP
    else:
        here = ctypes.c_int(-100)  # AT_FDCWD
        rename, arguments = getattr(library, "renameat2", None), (here, names[0], here, names[1], ctypes.c_uint(2))
    return rename is not None and rename(*arguments) == 0
