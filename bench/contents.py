"""What a config only names (pictures, captions, text, weights): hashes that are part of a run's key, and whether a run
still finds what it was made of. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from bench.config import Config
from bench.errors import UserError
from bench.files import hash_bytes
from bench.store import Request

FROZEN = ("lm", "vae")
"""Models of a config that a trained approach can't do without."""


def contents(config: Config, progress: Callable[[str], None]) -> dict[str, str]:
    """Hashes of the pictures, captions and text of every split, and of the models (but model.encoder's, which its
    package holds to one hash). UserError where one of them can't be had."""
    return {
        "data": _pictures(config),
        "text": _text(config, progress),
        **{part: value for name in (*FROZEN, "clip") for part, value in _model(config, name).items()},
    }


def _pictures(config: Config) -> str:
    from bench.data.catalogue import open_dataset
    from bench.data.dataset import SPLITS

    # Each split is opened on its own, so that only one dataset is in memory.
    return hash_bytes(*(open_dataset(config.data, split).content_hash() for split in SPLITS))


def _text(config: Config, progress: Callable[[str], None]) -> str:
    from bench.data.dataset import SPLITS
    from bench.data.text import TEXTS

    corpus = TEXTS[config.text.name].load().build(config.text, progress)
    return hash_bytes(*(corpus.content_hash(split) for split in SPLITS))


def _model(config: Config, name: str) -> dict[str, str]:
    """Of its weights, and of what lies beside them."""
    from approaches.shared.sources import beside, check_folder, resolve

    source = resolve(getattr(config.model, name), field=f"model.{name}")
    return {f"model.{name}": check_folder(source), f"model.{name} files": beside(source)}


def check_models(request: Request) -> None:
    """UserError where the frozen models that a run names are others by now, or its paths lead nowhere from here."""
    check_place(request)
    for name in FROZEN:
        path = getattr(request.config.model, name)
        _check(request, _model(request.config, name), f"model.{name} '{path}'")


def check_contents(request: Request, progress: Callable[[str], None]) -> None:
    """UserError where a run's pictures, captions or text are others by now."""
    check_place(request)
    config = request.config
    _check(request, {"data": _pictures(config)}, f"the data '{config.data.path or config.data.name}'")
    _check(request, {"text": _text(config, progress)}, f"the text '{config.text.path or config.text.name}'")


def _check(request: Request, found: Mapping[str, str], what: str) -> None:
    for part, value in found.items():
        if request.parts.get(part, value) != value:  # an older run knows fewer parts
            raise UserError(
                f"{what} is no longer what run {request.name} was made with: put that back, or make the run anew by "
                f"`python -m bench run`"
            )


def check_place(request: Request) -> None:
    """UserError where a path of the run leads nowhere from the present folder, and somewhere from the run's own."""
    config = request.config
    named = {
        **{f"model.{name}": getattr(config.model, name) for name in (*FROZEN, "clip")},
        "data.path": config.data.path,
        "text.path": config.text.path,
        "evaluate.inception": config.evaluate.inception,
    }
    for field, text in named.items():
        if not text or not request.folder or text.startswith("~"):
            continue
        if not Path(text).exists() and Path(request.folder, text).exists():
            raise UserError(
                f"{field} of run {request.name} is '{text}', which leads to nothing from here, but from where the run "
                f"was asked for: repeat the command in {request.folder}"
            )
