"""The card of a shipped model: how it was made and how good it is, for machines (card.json) and people (README.md)."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from approaches.shared.sources import Source, beside, check_folder
from bench.config import Config, fingerprint
from bench.environment import provenance
from bench.errors import UserError
from bench.files import hash_bytes, read_json, write_json, write_text

TITLES = {
    "vae": ("latent codec (diffusers AutoencoderKL)", "latent codec of shapes and emoji, f=4, 4 channels"),
    "lm": ("language model (Llama) with its tokenizer", "language model of docstrings and of the world of shapes"),
    "clip": ("CLIP (open_clip)", "CLIP of shapes and emoji"),
}


def write(kind: str, config: Config, facts: dict[str, Any], folder: Path) -> None:
    """Write both cards of a model.

    facts: what its recipe reported: data (hashes), quality, curve, seconds, converged (whether the curve was flat)."""
    recipe = getattr(config.pretrain, kind)
    title, summary = TITLES[kind]
    card = {
        "kind": kind,
        "summary": summary,
        "title": title,
        "preset": config.preset,
        "recipe": dataclasses.asdict(recipe),
        "recipe_fingerprint": fingerprint(recipe),
        "data_fingerprint": _of_data(kind, config),
        "size": config.data.size,
        "seed": config.seed,
        "command": f"python -m bench pretrain --preset {config.preset} --only {kind}",
        "weights": check_folder(Source(text=str(folder), path=folder)),
        "files": beside(Source(text=str(folder), path=folder)),
        "provenance": provenance({"seed": config.seed, "data": config.data.seed}),
        **facts,
    }
    write_json(folder / "card.json", card)
    write_text(folder / "README.md", page(folder.name, card))


def begin(folder: Path, weights: str) -> None:
    """Make room for a model that is whole elsewhere: the weights that were here and their card go before the first of
    the new files comes, so that a tokenizer never stands beside another's weights."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("card.json", weights):
        (folder / name).unlink(missing_ok=True)


def finished(kind: str, config: Config, folder: Path) -> bool:
    """Whether a folder holds a config's model, made by its recipe of its data, with the files that its card tells of.
    What a corpus holds is not looked at: without the folder the model is made anew."""
    source = Source(text=str(folder), path=folder)
    try:
        card = read_json(folder / "card.json")
        files = {"weights": check_folder(source), "files": beside(source)}
    except UserError:
        return False
    asked = {
        "kind": kind,
        "preset": config.preset,
        "recipe_fingerprint": fingerprint(getattr(config.pretrain, kind)),
        "data_fingerprint": _of_data(kind, config),
        "size": config.data.size,
        "seed": config.seed,
    }
    return isinstance(card, dict) and all(card.get(name) == value for name, value in {**asked, **files}.items())


def _of_data(kind: str, config: Config) -> str:
    """Of what a config says of pictures and, where the model reads it, of text."""
    text = fingerprint(config.text) if kind == "lm" else ""
    return hash_bytes(fingerprint(config.data), text)


def evaluations(steps: int, most: int) -> int:
    """How often a training of so many steps is evaluated: every ten steps, at most `most` times, and four times at
    least, which is what it takes to say whether the last quarter still moved."""
    return min(most, max(4, steps // 10))


def page(name: str, card: dict[str, Any]) -> str:
    """The card as Markdown."""
    made = card["provenance"]
    commit = made["commit"]["id"] or "unknown"
    dirty = " with uncommitted changes" if made["commit"]["dirty"] else ""
    lines = [
        f"# {name}: {card['title']}",
        "",
        f"Made by `{card['command']}` at commit `{commit}`{dirty}, seed {card['seed']}, in {card['seconds'] / 60:.0f} "
        f"minutes on {made['cpu']} ({_threads(made['threads'])}, torch {made['packages'].get('torch', '?')}). "
        "Weights are float16 safetensors.",
        "",
        f"Converged: {card['converged']}",
        "",
        *([f"Since then: {card['since']}", ""] if "since" in card else []),
        "## Quality",
        "",
        "Measured on the written weights, on data never trained on.",
        "",
        "| measure | value |",
        "|---|---|",
        *[f"| {row} | {value} |" for row, value in flat(card["quality"])],
        "",
        "## Data",
        "",
        *[f"- {source}: content hash `{digest}`" for source, digest in card["data"].items()],
        "",
        "## Recipe",
        "",
        *[f"- {row}: {value}" for row, value in flat(card["recipe"])],
        "",
        "## Curve (held-out data)",
        "",
        *_curve(card["curve"]),
        "",
    ]
    return "\n".join(lines)


def flat(values: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested facts as (path, value) rows."""
    rows: list[tuple[str, str]] = []
    for key, value in values.items():
        name = f"{prefix}{key}".replace("_", " ")
        if isinstance(value, dict):
            rows += flat(value, f"{prefix}{key}, ")
        else:
            rows.append((name, ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)))
    return rows


def _curve(curve: list[dict[str, float]]) -> list[str]:
    columns = list(curve[-1])  # a second stage may measure more than the first
    lines = [f"| {' | '.join(column.replace('_', ' ') for column in columns)} |", "|" + "---|" * len(columns)]
    return lines + [
        f"| {' | '.join(f'{row[column]:.5g}' if column in row else '-' for column in columns)} |" for row in curve
    ]


def _threads(threads: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in threads.items()) + " threads"
