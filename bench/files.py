"""Files that are either whole or absent, and hashes of what is in them. Standard library only; a leaf module."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import platform
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.errors import UserError

REFUSALS = (
    errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENAMETOOLONG, errno.EISDIR,
    errno.ENOTDIR, errno.ELOOP,
)  # fmt: skip
"""What the system says where a disk is full, one may not write (or read) there, no file can have that name, a folder
stands where a file was expected (or a file where a folder), or links lead round in a circle."""
FULL = tuple(word for number in REFUSALS[:2] for word in (os.strerror(number), f"os error {number}"))
"""How libraries that raise no OSError say that a disk is full, or that one's share of it is."""
MOST_JSON = 2**28
"""Bytes: a file of more is read as no JSON. The largest record that a run has left so far has a megabyte."""


class UnfitFileError(UserError, OSError):
    """A file that nobody reads: a pipe, which may never end, a device, or more bytes than what is expected has."""


class LargeFileError(UnfitFileError):
    """A file of more bytes than its reader takes."""


def at_home(path: str | Path) -> Path:
    """The path with its ~ as the home folder. Where nobody has that name, or home, it stays as it is: a file that isn't
    there."""
    try:
        return Path(os.path.expanduser(path))
    except ValueError:  # of a null character in a name
        return Path(path)


def check_output(path: Path, flag: str) -> None:
    """UserError that names the flag where what is to be a folder is something else, or lies in something else."""
    there = next((each for each in (path, *path.parents) if os.path.lexists(each)), path)
    if os.path.lexists(there) and not there.is_dir():
        which = f"{flag} {path}" if there == path else f"{flag} {path}: {there}"
        raise UserError(f"{which} is a {'file' if there.exists() else 'link that leads nowhere'}, expected a folder")


def cache_directory() -> Path:
    """Where derived files live: $BENCH_CACHE, else $XDG_CACHE_HOME/draw-bench, else ~/.cache/draw-bench. UserError
    where nobody has a home."""
    chosen = os.environ.get("BENCH_CACHE")
    caches = at_home(chosen or os.environ.get("XDG_CACHE_HOME") or "~/.cache")
    if str(caches).startswith("~"):
        raise UserError(f"caches are to lie in {caches}: there is no such home folder, name another in BENCH_CACHE")
    return caches if chosen else caches / "draw-bench"


@contextmanager
def atomic_path(target: Path) -> Iterator[Path]:
    """A temporary path beside `target` that becomes it when the block ends well, and is removed when it does not.

    The file is flushed to disk before the rename, so a kill leaves either the old file or the new one; what a killed
    process left of its temporary file goes when the next one writes the same target.
    UserError where the disk is full or the folder can't be written.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _remove_stale(target)
        prefix = f".{target.name}.{_machine()}-{os.getpid()}-"
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=prefix, suffix=".part")
    except OSError as error:
        raise UserError(f"can't write {target}: {error.strerror or error}") from error
    os.close(handle)
    part = Path(name)
    try:
        yield part
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        mask = os.umask(0)
        os.umask(mask)
        part.chmod(0o666 & ~mask)
        part.replace(target)
    except Exception as error:  # safetensors and torch have errors of their own for a full disk
        if isinstance(error, OSError) and error.errno in REFUSALS:
            raise UserError(f"can't write {target}: {error.strerror}") from error
        if any(word in str(error) for word in FULL):
            raise UserError(f"can't write {target}: {str(error).splitlines()[0]}") from error
        raise
    finally:
        part.unlink(missing_ok=True)


def _machine() -> str:
    """8 hex digits of this machine's name: a process number means nothing on another that shares the disk."""
    return hash_bytes(platform.node())[:8]


def _remove_stale(target: Path) -> None:
    """Remove the temporary files for `target` of processes of this machine that are no more."""
    if os.name != "posix":  # elsewhere signal 0 may end the process that it asks for
        return
    pattern = re.compile(re.escape(f".{target.name}.{_machine()}-") + r"(\d+)-[^.]*\.part")
    for name in os.listdir(target.parent):
        if (match := pattern.fullmatch(name)) and not _lives(int(match[1])):
            (target.parent / name).unlink(missing_ok=True)


def being_written(path: Path) -> bool:
    """Whether a temporary file of `atomic_path`'s is of a process of this machine that lives."""
    found = re.search(re.escape(f".{_machine()}-") + r"(\d+)-[^.]*\.part$", path.name)
    return found is not None and (os.name != "posix" or _lives(int(found[1])))


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # of another user
        pass
    return True


def write_text(target: Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    with atomic_path(target) as part:
        part.write_text(text, encoding="utf-8")


def write_json(target: Path, value: Any) -> None:
    """Write JSON atomically: sorted keys, two spaces, no NaN."""
    write_text(target, json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n")


def regular(path: str, flags: int) -> int:
    """An `opener` for `open` that waits for nobody: UnfitFileError where a file is no regular one, such as a pipe that
    nobody writes into."""
    handle = os.open(path, flags | getattr(os, "O_NONBLOCK", 0), 0o666)
    kind = stat.S_IFMT(os.fstat(handle).st_mode)
    if kind in (stat.S_IFREG, stat.S_IFDIR):  # of a folder, `open` says so itself
        return handle
    os.close(handle)
    raise UnfitFileError(f"{path} is a pipe or a device, expected a file")


def own(path: str, flags: int) -> int:
    """As `regular`, of a file that is written where it is: UnfitFileError where it is a link, which leads elsewhere."""
    try:
        return regular(path, flags | getattr(os, "O_NOFOLLOW", 0))
    except OSError as error:
        if os.path.islink(path):
            raise UnfitFileError(f"{path} is a link, expected a file of its own: delete it") from error
        raise


def read_regular(path: Path, most: int) -> bytes:
    """A file's content. UnfitFileError where it is no regular file, LargeFileError where it has more than `most` bytes,
    and another OSError where it can't be read."""
    with open(path, "rb", opener=regular) as file:
        if (size := os.fstat(file.fileno()).st_size) > most:
            raise LargeFileError(f"{path} has {size:,} bytes, expected {most:,} at most")
        return file.read()


def read_text(path: Path, most: int, encoding: str = "utf-8") -> str:
    """A file's text, whose lines end as Python's do; UnicodeDecodeError where it is none, OSError as `read_regular`."""
    return io.TextIOWrapper(io.BytesIO(read_regular(path, most)), encoding=encoding).read()


def read_json(path: Path) -> Any:
    """Read JSON; UserError that names the file where it is missing or no JSON (which has no NaN), says one thing twice,
    or holds more inside each other than Python reads; UnfitFileError where it is no regular file, or enormous."""
    try:
        text = read_text(path, MOST_JSON)
        return json.loads(text, parse_constant=_no_constant, object_pairs_hook=_each_once)
    except UnfitFileError:
        raise
    except FileNotFoundError as error:
        raise UserError(f"no such file: {path}") from error
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} is not readable as JSON: {error}") from error


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"it says '{next(name for name in names if names.count(name) > 1)}' twice")
    return found


def _no_constant(word: str) -> None:
    raise ValueError(f"it holds {word}")


def require_space(folder: Path, needed: int, purpose: str) -> None:
    """UserError where the disk under `folder` has fewer than `needed` bytes left."""
    existing = folder
    while not existing.exists():
        existing = existing.parent
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise UserError(f"{purpose} needs {needed / 1e6:.0f} MB in {folder}, and {free / 1e6:.0f} MB are free")


def whole_characters(text: str) -> str:
    """A text without surrogates, which JSON and command lines can bring and UTF-8 can't hold: pairs are joined, what is
    left alone becomes U+FFFD."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def hash_bytes(*parts: bytes | memoryview | str) -> str:
    """SHA-256 of the parts, each preceded by its length in bytes so that boundaries count; 16 hex digits. A memoryview
    has one dimension, of any type: large arrays are hashed without a copy."""
    digest = hashlib.sha256()
    for part in parts:
        data = memoryview(part.encode() if isinstance(part, str) else part)
        digest.update(data.nbytes.to_bytes(8, "big"))
        digest.update(data)
    return digest.hexdigest()[:16]


def hash_file(path: Path) -> str:
    """SHA-256 of a file's content; 16 hex digits."""
    with open(path, "rb", opener=regular) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]
