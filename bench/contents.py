"""What a config only names (pictures, captions, text, weights): hashes that are part of a run's key, and whether a run
still finds what it was made of. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from bench.config import Config
from bench.errors import UserError
from bench.files import hash_bytes
from bench.store import Request

FROZEN = ("lm", "vae")
"""Models of a config that a trained approach can't do without."""
OTHER_TEXTS = "other texts"
JUDGES = ("model.clip", OTHER_TEXTS)
"""Beginnings of the parts that train nothing."""


def contents(config: Config, progress: Callable[[str], None]) -> dict[str, str]:
    """Hashes of the pictures, captions and text of every split, of text that is only measured, and of the models (but
    model.encoder's, which its package holds to one hash). UserError where one of them can't be had."""
    return {
        "data": _pictures(config),
        "text": _text(config, progress),
        OTHER_TEXTS: _other_texts(config, progress),
        **{part: value for name in (*FROZEN, "clip") for part, value in _model(config, name).items()},
    }


def of_judges(config: Config, progress: Callable[[str], None]) -> dict[str, str]:
    """The parts of `contents` that train nothing."""
    return {OTHER_TEXTS: _other_texts(config, progress), **_model(config, "clip")}


def _pictures(config: Config) -> str:
    from bench.data.catalogue import open_dataset
    from bench.data.dataset import SPLITS

    # Each split is opened on its own, so that only one dataset is in memory.
    return hash_bytes(*(open_dataset(config.data, split).content_hash() for split in SPLITS))


def _text(config: Config, progress: Callable[[str], None]) -> str:
    from bench.data.dataset import SPLITS
    from bench.data.text import open_text

    corpus = open_text(config.text, progress)
    return hash_bytes(*(corpus.content_hash(split) for split in SPLITS))


def _other_texts(config: Config, progress: Callable[[str], None]) -> str:
    from bench.data.other_texts import other_texts_hash

    return other_texts_hash(config, progress)


def _model(config: Config, name: str) -> dict[str, str]:
    """Of its weights, and of what lies beside them."""
    from approaches.shared.hub import pinned
    from approaches.shared.sources import beside, check_folder, resolve

    source = resolve(getattr(config.model, name), field=f"model.{name}")
    if name in FROZEN:  # CLIP's names are open_clip's, not the hub's
        source = pinned(source, field=f"model.{name}")
    return {f"model.{name}": check_folder(source), f"model.{name} files": beside(source)}


def as_made(request: Request) -> Config:
    """A run's config with the models of the hub at the commits that it was made with, whatever was pushed since."""
    parts = {name: request.parts.get(f"model.{name}", "") for name in FROZEN}
    hub = {name: part.removeprefix("hub:") for name, part in parts.items() if part.startswith("hub:")}
    return replace(request.config, model=replace(request.config.model, **hub))


def check_models(request: Request) -> None:
    """Before anything is loaded: UserError where a run's frozen models have other configs or tokenizers by now, or
    their paths lead nowhere from here. Their weights are judged by `check_weights`."""
    from approaches.shared.sources import beside, resolve

    for name in FROZEN:
        path = getattr(request.config.model, name)
        check_place(request, f"model.{name}", path)
        _check(request, f"model.{name} files", beside(resolve(path, field=f"model.{name}")), f"model.{name} '{path}'")


def check_weights(request: Request, found: Mapping[str, str]) -> None:
    """UserError where a run's frozen models have other weights by now. found: name -> hash of what was loaded."""
    for name, value in found.items():
        _check(request, f"model.{name}", value, f"model.{name} '{getattr(request.config.model, name)}'")


def check_data(request: Request) -> None:
    """UserError where a run's pictures or captions are others by now."""
    config = request.config.data
    check_place(request, "data.path", config.path)
    _check(request, "data", _pictures(request.config), f"the data '{config.path or config.name}'")


def check_read(request: Request, progress: Callable[[str], None]) -> None:
    """UserError where the pictures, captions or texts of a run, or its CLIP, are others than when it was asked for: a
    queue may have held it for days. Its other models are judged as they are loaded."""
    config = request.config
    check_data(request)
    check_place(request, "text.path", config.text.path)
    _check(request, "text", _text(config, progress), f"the text '{config.text.path or config.text.name}'")
    check_other_places(request)
    _check(request, OTHER_TEXTS, _other_texts(config, progress), "the text that is only measured")
    check_place(request, "model.clip", config.model.clip)
    for part, value in _model(config, "clip").items():
        _check(request, part, value, f"model.clip '{config.model.clip}'")


def unchanged(request: Request, progress: Callable[[str], None]) -> dict[str, str]:
    """`contents` of a run's config. UserError where any but those of JUDGES is another by now."""
    config = request.config
    named = {"data.path": config.data.path, "text.path": config.text.path}
    named |= {f"model.{name}": getattr(config.model, name) for name in FROZEN}
    for field, path in named.items():
        check_place(request, field, path)
    found = contents(as_made(request), progress)
    for part, value in found.items():
        if not part.startswith(JUDGES):
            _check(request, part, value, part.removesuffix(" files"))
    return found


def changed_clip(request: Request) -> bool:
    """Whether the files of a run's CLIP are others by now. UserError where they can't be had."""
    found = _model(request.config, "clip")
    return any(request.parts.get(part, value) != value for part, value in found.items())


def changed_text(request: Request, progress: Callable[[str], None]) -> str:
    """The present hash of a run's text where that is another by now, else "". UserError where it can't be had."""
    check_place(request, "text.path", request.config.text.path)
    found = _text(request.config, progress)
    return "" if found == request.parts.get("text", found) else found


def changed_other_texts(request: Request, progress: Callable[[str], None]) -> bool:
    """Whether a run's other texts are others by now. UserError where they can't be had."""
    check_other_places(request)
    found = _other_texts(request.config, progress)
    return request.parts.get(OTHER_TEXTS, found) != found


def check_other_places(request: Request) -> None:
    """UserError as `check_place`, of the other texts."""
    from bench.data.other_texts import named

    for other in named(request.config).values():
        check_place(request, "evaluate.other_texts", other.path)


def _check(request: Request, part: str, value: str, what: str) -> None:
    known = request.parts.get(part, value)  # an older run knows fewer parts
    if known.startswith("hub:") and "@" not in known:  # nor which commit of a model of the hub it was made with
        return
    if known != value:
        raise UserError(
            f"{what} is no longer what run {request.name} was made with, or this version reads it otherwise: put that "
            "back, or make the run anew by `python -m bench run`"
        )


def check_place(request: Request, field: str, text: str | None) -> None:
    """UserError where a path of the run leads nowhere from the present folder, and somewhere from the run's own."""
    if not text or not request.folder or text.startswith("~"):
        return
    if not Path(text).exists() and Path(request.folder, text).exists():
        raise UserError(
            f"{field} of run {request.name} is '{text}', which leads to nothing from here, but from where the run "
            f"was asked for: repeat the command in {request.folder}"
        )
