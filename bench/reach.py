"""Whether the Hugging Face hub answers: where it does not, as on most clusters' nodes, loaders take what is in
the local cache at once, not after five retries a file (23 s)."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

PATIENCE = 5.0  # seconds
NO_ANSWER = "the hub does not answer, and the local cache does not hold all of it"


@contextmanager
def hub_or_cache(*, needed: bool = True) -> Iterator[bool]:
    """Loaders in here ask the hub where it answers, and otherwise only the local cache. Gives whether it answers: True
    unasked where it is not needed, and where the environment says to do without (HF_HUB_OFFLINE)."""
    if not needed:
        yield True
        return
    from huggingface_hub import constants  # `huggingface_hub.constants` is there only once somebody imported it

    settings: list[Any] = [constants]
    if "datasets" in sys.modules:  # it keeps its own copy of the setting
        settings.append(sys.modules["datasets"].config)
    before = [setting.HF_HUB_OFFLINE for setting in settings]
    reachable = before[0] or _answers()  # datasets may have a setting of its own, which it heeds by itself
    if not reachable:
        for setting in settings:
            setting.HF_HUB_OFFLINE = True
    try:
        yield reachable
    finally:
        for setting, value in zip(settings, before, strict=True):
            setting.HF_HUB_OFFLINE = value


def _answers() -> bool:
    import huggingface_hub
    from huggingface_hub import constants

    try:
        huggingface_hub.get_session().head(constants.ENDPOINT, timeout=PATIENCE)
    except Exception:  # of whichever HTTP client this version uses; an answer of any status is none
        return False
    return True
