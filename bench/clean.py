"""`python -m bench clean`: what caches and runs take on the disk, and freeing it. Imports no torch.

Only what this program wrote is touched: the folders that it makes in its cache, and folders under --out that hold a
run's request. A link among the runs, or out of one, leads to somebody's own, and is left alone.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

from bench import finding, store
from bench.array import in_queue
from bench.budget import bytes_
from bench.clean_arguments import KINDS, CleanArguments
from bench.config import Config
from bench.console import Console
from bench.errors import UserError
from bench.files import being_written, cache_directory

CACHES = ("pictures", "latents", "features", "tokens", "pydocs", "unread", "emoji", "verdicts", "gguf")
OURS = re.compile(r"\.?[0-9a-f]{16}(\..+)?|\.part-.+")
"""Names in a cache's folder that are this program's: hashes, and what a killed process left of their writing."""
UNPACKING = 3600.0  # seconds after its last change that a file may still be written
CHECKPOINTS = "checkpoint*"


def main(arguments: CleanArguments, config: Config, console: Console) -> int:
    """Say what each kind takes, and delete the kinds named where that is asked for; 0."""
    deleting = arguments.delete and not arguments.dry_run
    of_runs = set(arguments.what or KINDS) - {"caches"}
    runs = list(_idle(arguments.out, console)) if of_runs else []
    found = {}
    for kind in arguments.what or KINDS:
        places = dict(_places(kind, runs, console))
        paths, sizes = list(places), [sum(map(size_of, parts)) for parts in places.values()]
        if deleting:
            for path, parts in places.items():
                for part in parts:
                    _remove(part, kind, arguments.out)
                if path not in parts:
                    with suppress(OSError):  # somebody else's files are in it
                        path.rmdir()
        found[kind] = {"bytes": sum(sizes), "paths": [str(path) for path in paths], "deleted": deleting}
        console.info(f"{kind}: {bytes_(sum(sizes))} in {len(paths)} places {'freed' if deleting else ''}".rstrip())
        console.info(f"  {KINDS[kind]}")
        for path, size in [] if deleting else list(zip(paths, sizes, strict=True)):
            console.info(f"  {path} {bytes_(size)}")
    if not deleting:
        kinds = " ".join(arguments.what) or "KIND"
        where = "" if arguments.out == CleanArguments.out else f" --out {shlex.quote(str(arguments.out))}"
        console.info(f"nothing was deleted: python -m bench clean{where} --what {kinds} --delete does it")
    if console.as_json:
        console.emit(found)
    return 0


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files in a folder; links are not followed."""
    if path.is_symlink() or not path.is_dir():
        return path.lstat().st_size
    return sum(each.lstat().st_size for each in path.rglob("*") if not each.is_dir() or each.is_symlink())


def _idle(out: Path, console: Console) -> Iterator[finding.Found]:
    """The runs that nobody works on; what is no run, links to runs, and runs at work, are told."""
    for folder in finding.damaged(out):
        console.warn(f"{folder} does not read as a run, and is left alone")
    for run in finding.runs(out):
        if run.folder.is_symlink():
            console.warn(f"{run.folder} is a link, and left alone")
        elif run.state is not None and run.state.state == "running":
            console.warn(f"{run.folder.name} is at work, and left alone")
        elif not run.done and (place := _waits(out, run.folder.name)):
            console.warn(f"{run.folder.name} is {place}, and left alone")
        else:
            yield run


def _waits(out: Path, name: str) -> str:
    """Where an unfinished run is in SLURM's queue, or may be; "" where it is not."""
    try:
        return in_queue(out, name, unknown="in a queue that can't be asked here")
    except ImportError:  # submitit, by which it was asked for
        return "in a queue that can't be asked without submitit"


def _places(kind: str, runs: Sequence[finding.Found], console: Console) -> Iterator[tuple[Path, list[Path]]]:
    """What a kind means now, each place with the files and folders there that may go; links out of a run are told."""
    if kind == "caches":
        folders = (cache_directory() / name for name in CACHES)
        found = ((folder, sorted(folder.iterdir())) for folder in folders if folder.is_dir())
        yield from ((folder, own) for folder, all_ in found if (own := [path for path in all_ if _ours(path)]))
        return
    for path in _paths(kind, runs):
        if path.is_symlink() and not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(path.parent)):
            console.warn(f"{path} is a link out of its run, and left alone")
        elif path.exists():
            yield path, [path]


def _ours(path: Path) -> bool:
    """Whether a cache's entry may go: one of ours, and nothing that somebody may be writing just now."""
    if not OURS.fullmatch(path.name):
        return False
    if not path.name.startswith(".part-") and path.suffix != ".part":
        return True
    return time.time() - path.lstat().st_mtime > UNPACKING and not being_written(path)


def _paths(kind: str, runs: Sequence[finding.Found]) -> Iterator[Path]:
    """What a kind means, of runs that nobody works on."""
    for run in runs:
        if kind == "checkpoints" and not run.done:
            yield from sorted(run.folder.glob(CHECKPOINTS))
        elif kind == "weights" and run.done:
            yield run.folder / store.WEIGHTS
        elif kind == ("done" if run.done else "unfinished"):
            yield run.folder


def _remove(path: Path, kind: str, out: Path) -> None:
    """Delete a file or folder; of a run, while no other process can begin to work on it. UserError where it can't be
    deleted; BusyError where somebody just began."""
    folder = path if path.parent == out else path.parent
    with ExitStack() as stack:
        if (folder / store.REQUEST).exists():
            stack.enter_context(store.locked(folder))
            state = store.read_state(folder)
            if kind in ("checkpoints", "unfinished") and state is not None and state.state == "done":
                return  # it ended since it was looked at
        try:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
        except OSError as error:
            raise UserError(f"can't delete {path}: {error.strerror or error}") from error
