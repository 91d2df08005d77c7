"""A model of the Hugging Face hub at one commit: what a name stands for may change between two runs, or between asking
for a run and loading its models. Imports no torch."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from approaches.shared.sources import Source
from bench.errors import UserError
from bench.reach import NO_ANSWER, hub_or_cache

CONFIG = "config.json"
"""A file that each of our models has."""
COMMIT = re.compile("[0-9a-f]{40}")
LONGEST = 300  # characters of a library's own words


def pinned(source: Source, *, field: str) -> Source:
    """The source with the commit that its hub id stands for now: the hub's, or, where that does not answer, the local
    cache's. A local source stays as it is. UserError (naming `field`) where neither has the model."""
    if source.path is not None:
        return source
    if COMMIT.fullmatch(source.revision):
        return replace(source, commit=source.revision)
    import huggingface_hub
    from huggingface_hub.errors import EntryNotFoundError

    with hub_or_cache() as reachable:
        try:
            file = huggingface_hub.hf_hub_download(
                source.location, CONFIG, subfolder=source.subfolder or None, revision=source.revision
            )
        except (OSError, ValueError, EntryNotFoundError) as error:
            reason = _reason(error) if reachable else NO_ANSWER
            raise UserError(f"{field} '{source.text}' can't be loaded: {reason}") from error
    depth = len(Path(source.subfolder).parts)
    return replace(source, commit=Path(file).parents[depth].name)  # snapshots/COMMIT/SUBFOLDER/config.json


def _reason(error: Exception) -> str:
    """Why the hub did not give a file."""
    from huggingface_hub import constants, errors

    if isinstance(error, errors.LocalEntryNotFoundError) and constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set, and the local cache does not hold it"
    if isinstance(error, errors.GatedRepoError):
        return "the hub gives it only to those who were granted access: ask for it there, then `hf auth login`"
    if isinstance(error, errors.RepositoryNotFoundError):
        return "the hub has no such model, or does not show it to you"
    if isinstance(error, errors.RevisionNotFoundError):
        return "it has no such revision"
    if isinstance(error, errors.RemoteEntryNotFoundError):
        return f"there is no {CONFIG} in it"
    said = " ".join(str(error).split())
    return said if len(said) <= LONGEST else said[:LONGEST] + " ..."
