"""Captions written of pictures: whether they are true of a known scene, how much of it they say, and the scores that
captions have in the literature.

A caption of the procedural world is read by a small grammar of its own: number, size and colour words before a shape,
places between two shapes, and the background. Reading is strict: a word the grammar doesn't know, or one that belongs
to no object, makes the caption unparsed, for nobody can say whether it is true.

N captions, one a picture.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

import bench.torchvision_guard  # noqa: F401  (before torchmetrics, which imports torchvision)
from bench.data.scene import BACKGROUNDS, COLOURS, Demand, Scene, Thing, satisfied, stands
from bench.seeds import derive
from metrics.registry import cider_obstacle
from metrics.statistics import ONE_ITEM, PROJECTED, Estimate, bootstrap, mean_estimate

NUMBERS = {"a": 1, "an": 1, "one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6}
SIZE_WORDS = {"small": "small", "little": "small", "tiny": "small", "large": "large", "big": "large"}
COLOUR_WORDS = {**{colour: colour for colour in COLOURS}, "violet": "purple"}
SHAPE_WORDS = {"circle": "circle", "disc": "circle", "square": "square", "triangle": "triangle", "cross": "cross"}
PLURALS = {("crosses" if word == "cross" else f"{word}s"): shape for word, shape in SHAPE_WORDS.items()}
PLACES = {
    "left of": "left of",
    "right of": "right of",
    "on top of": "above",
    "above": "above",
    "over": "above",
    "below": "below",
    "under": "below",
    "beneath": "below",
    "underneath": "below",
}
_LEADS = r"(?:(?:is|are|stands?|placed|located) )?(?:(?:to|on|at) the )?"
_PLACE = re.compile(rf"\b{_LEADS}({'|'.join(PLACES)})\b")
_BACKGROUND = re.compile(
    rf"\b(?:(?:on|against|over|with|in) )?(?:an? |the )?({'|'.join(BACKGROUNDS)}) (?:background|backdrop)\b"
)
_OPENING = re.compile(
    r"^(?:please )?(?:there (?:is|are)|(?:an?|the|this) (?:picture|image|drawing) (?:of|with|shows|showing)|"
    r"(?:paint|draw|show)s?|this is|with)\b"
)
SHIFTS = 24  # other scenes that each caption is judged by, for the chance level


@dataclass(frozen=True, kw_only=True)
class Claims:
    """What a caption says: objects, how some stand to others (index, relation, index), and the background."""

    demands: tuple[Demand, ...]
    relations: tuple[tuple[int, str, int], ...] = ()
    background: str | None = None


@dataclass
class _Reader:
    """The words of one object as they come, and the objects read."""

    count: int | None = None
    size: str | None = None
    colour: str | None = None
    demands: list[Demand] = field(default_factory=list)
    relations: list[tuple[int, str, int]] = field(default_factory=list)
    place: str | None = None

    def attribute(self, name: str, value: int | str) -> bool:
        """Note a word before a shape; False where the object has one of this kind already."""
        if getattr(self, name) is not None:
            return False
        setattr(self, name, value)
        return True

    def shape(self, shape: str, plural: bool) -> bool:
        """Close an object; False where number and noun disagree."""
        count = self.count or (2 if plural else 1)
        if (count > 1) != plural:
            return False
        self.demands.append(Demand(shape=shape, colour=self.colour, size=self.size, count=count))
        if self.place is not None:
            self.relations.append((len(self.demands) - 2, self.place, len(self.demands) - 1))
        self.count = self.size = self.colour = self.place = None
        return True

    def relation(self, place: str) -> bool:
        """Note a place; False where it stands behind no object."""
        if not self.demands or not self.idle():
            return False
        self.place = place
        return True

    def idle(self) -> bool:
        """Whether nothing is open."""
        return self.count is None and self.size is None and self.colour is None and self.place is None


def parse_caption(text: str) -> Claims | None:
    """What a caption of the procedural world says; None where it is empty or can't be read. A plural without a number
    claims two."""
    words = " ".join(re.findall(r"[a-z]+|\d+|[,;:.]", text.lower()))
    words = re.sub(r"\b\d+\b", lambda match: _digit(match.group()), words)
    found = _BACKGROUND.findall(words)
    if len(set(found)) > 1:
        return None
    words = _OPENING.sub("", _BACKGROUND.sub(" ", words).strip(" ,;:."))
    words = _OPENING.sub("", words.strip())
    words = _PLACE.sub(lambda match: "@" + PLACES[match.group(1)].replace(" ", "_"), words)
    reader = _Reader()
    for word in words.split():
        if not _read(reader, word):
            return None
    if not reader.demands or not reader.idle():
        return None
    return Claims(
        demands=tuple(reader.demands), relations=tuple(reader.relations), background=found[0] if found else None
    )


def _digit(text: str) -> str:
    return next((word for word, number in NUMBERS.items() if str(number) == text and len(word) > 2), text)


def _read(reader: _Reader, word: str) -> bool:
    """Take one word; False where it doesn't fit."""
    if word in ("and", ",", ";", "."):
        return reader.idle()
    if word.startswith("@"):
        return reader.relation(word[1:].replace("_", " "))
    if word in NUMBERS:
        return reader.size is None and reader.colour is None and reader.attribute("count", NUMBERS[word])
    if word in SIZE_WORDS:
        return reader.attribute("size", SIZE_WORDS[word])
    if word in COLOUR_WORDS:
        return reader.attribute("colour", COLOUR_WORDS[word])
    if word in SHAPE_WORDS or word in PLURALS:
        return reader.shape(SHAPE_WORDS.get(word) or PLURALS[word], word in PLURALS)
    return False


def is_true(claims: Claims, scene: Scene) -> bool:
    """Whether a scene fulfils everything a caption says, as `bench.data.scene.satisfied` judges demands: exact numbers
    where a number above one or a single kind is named; every relation for at least one pair; every named object by a
    thing of its own; and the background, where it is named."""
    if claims.background not in (None, scene.background):
        return False
    alike = Counter(
        (demand.shape, demand.colour, demand.size) for demand in claims.demands for _ in range(demand.count)
    )
    merged = tuple(Demand(shape=s, colour=c, size=z, count=n) for (s, c, z), n in alike.items())
    if not satisfied(scene.things, merged, None):
        return False
    wanted = [demand for demand in merged for _ in range(demand.count)]
    if _assigned([[float(demand.met_by(thing)) for thing in scene.things] for demand in wanted]) < len(wanted):
        return False
    return all(
        any(
            stands(a, b, relation)
            for a in scene.things
            for b in scene.things
            if claims.demands[first].met_by(a) and claims.demands[second].met_by(b)
        )
        for first, relation, second in claims.relations
    )


def attribute_f1(claims: Claims | None, scene: Scene) -> float:
    """How much of a scene a caption says, and how much of what it says is there; 0 to 1.

    Each demand stands for `count` objects with the attributes it names (a shape, perhaps a colour, perhaps a size); the
    scene's things have all three. Objects and things are paired one to one so that most attributes agree. Precision is
    the share of the named attributes that agree, recall the share of the things' attributes that were named rightly, F1
    their harmonic mean. A wrong count leaves objects or things unpaired. An unparsed caption (None) has 0. Relations
    and background don't count here. A true caption that leaves attributes open has less than 1.
    """
    if claims is None:
        return 0.0
    named = [demand for demand in claims.demands for _ in range(demand.count)]
    agreed = _assigned([[_agreeing(demand, thing) for thing in scene.things] for demand in named])
    said = sum(1 + (demand.colour is not None) + (demand.size is not None) for demand in named)
    return 2 * agreed / (said + 3 * len(scene.things))


def _agreeing(demand: Demand, thing: Thing) -> float:
    return float(demand.shape == thing.shape) + (demand.colour == thing.colour) + (demand.size == thing.size)


def _assigned(weights: list[list[float]]) -> float:
    """The greatest total weight of a one-to-one assignment of rows to columns."""
    table = np.array(weights)
    if not table.size:
        return 0.0
    rows, columns = linear_sum_assignment(table, maximize=True)
    return float(table[rows, columns].sum())


def caption_metrics(
    captions: Sequence[str],
    scenes: Sequence[Scene | None],
    references: Sequence[Sequence[str]] | None = None,
    *,
    seed: int = 0,
) -> dict[str, Estimate]:
    """`caption_exact_match` and `caption_attribute_f1` where every scene is known; `caption_bleu4` and `caption_cider`
    where references are given, one or more a caption. What can't be had is missing, with its reason.

    Details of the first two: `per_item`, `unparsed` (how many captions couldn't be read; each is a failure), and
    `chance` (the same captions, of other pictures).
    """
    known = [scene for scene in scenes if scene is not None]
    found = {}
    if len(known) < len(scenes) or not scenes:
        reason = f"{len(scenes) - len(known)} of {len(scenes)} pictures come without a known scene"
        missing = Estimate.missing(reason if scenes else "no items", unit="share", better="higher")
        found = {"caption_exact_match": missing, "caption_attribute_f1": missing, "caption_f1_gap": missing}
    else:
        found["caption_exact_match"] = _judged(captions, known, _exact, seed)
        found["caption_attribute_f1"] = _judged(captions, known, attribute_f1, seed)
        found["caption_f1_gap"] = f1_gap(captions, known, seed=seed)
    if references is None:
        missing = Estimate.missing("no reference captions were given", better="higher")
        return found | {"caption_bleu4": missing, "caption_cider": missing}
    return found | {
        "caption_bleu4": bleu4(captions, references, seed=seed),
        "caption_cider": cider(captions, references, seed=seed),
    }


def _exact(claims: Claims | None, scene: Scene) -> float:
    return float(claims is not None and is_true(claims, scene))


def _judged(
    captions: Sequence[str], scenes: Sequence[Scene], judge: Callable[[Claims | None, Scene], float], seed: int
) -> Estimate:
    """The mean of a judgement of captions, with what the same captions get of other scenes."""
    claims = [parse_caption(text) for text in captions]
    values = [judge(claim, scene) for claim, scene in zip(claims, scenes, strict=True)]
    order = np.random.default_rng(derive(seed, "captioning/chance")).permutation(len(scenes))
    steps = range(1, min(SHIFTS, len(scenes) - 1) + 1)
    pairs = [(a, b) for step in steps for a, b in zip(order, np.roll(order, step), strict=True)]
    chance = float(np.mean([judge(claims[a], scenes[b]) for a, b in pairs])) if pairs else None
    details = {"unparsed": claims.count(None), "chance": chance}
    keys = [repr(scene) for scene in scenes]
    return mean_estimate(values, keys=keys, seed=seed, unit="share", better="higher", details=details)


def f1_gap(captions: Sequence[str], scenes: Sequence[Scene], *, seed: int = 0) -> Estimate:
    """By how much a caption's attribute F1 exceeds what it gets of other pictures, a mean over up to SHIFTS of them: 0
    where captions don't look at their pictures. An item is what a caption and its scene do to the mean, in which a
    scene stands as another's as well (Hoeffding's projection). Details: `own`, each caption's gap; `reference`,
    what true and full descriptions get."""
    if len(scenes) < 2:
        return Estimate.missing("a gap takes two pictures", unit="share", better="higher")
    count = len(scenes)
    order = np.random.default_rng(derive(seed, "captioning/gap")).permutation(count)
    others = np.empty((count, min(SHIFTS, count - 1)), dtype=np.int64)  # each scene stands in it equally often
    for step in range(others.shape[1]):
        others[order, step] = np.roll(order, -1 - step)

    def gaps(claims: Sequence[Claims | None]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        own = np.array([attribute_f1(claim, scene) for claim, scene in zip(claims, scenes, strict=True)])
        luck = np.array([[attribute_f1(claims[i], scenes[other]) for other in others[i]] for i in range(count)])
        lent = np.bincount(others.ravel(), luck.ravel(), count) / others.shape[1]  # by a scene to others' captions
        return own - luck.mean(1), lent - luck.mean()

    (own, lent), (true, _) = gaps([parse_caption(text) for text in captions]), gaps([_whole(scene) for scene in scenes])
    details = {"others": SHIFTS, "reference": float(np.mean(true)), "own": own.tolist(), "deal": PROJECTED}
    keys = [repr(scene) for scene in scenes]
    return mean_estimate(own - lent, keys=keys, seed=seed, unit="share", better="higher", details=details)


def _whole(scene: Scene) -> Claims:
    """Everything that a full description says of the things."""
    return Claims(
        demands=tuple(Demand(shape=each.shape, colour=each.colour, size=each.size, count=1) for each in scene.things)
    )


def words_of(text: str) -> str:
    """A caption as the literature's tokenizer leaves it for such text: words and numbers in lower case."""
    return " ".join(re.findall(r"[^\W_]+(?:'[a-z]+)?", text.lower()))


TOKENIZER = "lower case, words and numbers, no punctuation"


def bleu4(captions: Sequence[str], references: Sequence[Sequence[str]], *, seed: int = 0) -> Estimate:
    """BLEU-4 of the corpus (Papineni et al. 2002), 0 to 1, from torchmetrics' counts of each caption, with a bootstrap
    over captions. No interval where no run of four words is right: then it is 0 in every resample too."""
    from torchmetrics.text import BLEUScore

    rows = []
    for text, texts in zip(captions, references, strict=True):
        one = BLEUScore()
        one.update([words_of(text)], [[words_of(each) for each in texts]])
        rows.append([*one.numerator.tolist(), *one.denominator.tolist(), float(one.preds_len), float(one.target_len)])
    counts = np.array(rows).reshape(-1, 10)

    def score(index: NDArray[np.int64]) -> float:
        right, said, (length, wanted) = np.split(counts[index].sum(axis=0), (4, 8))
        if not right.all():
            return 0.0
        return float(np.exp(min(0.0, 1 - wanted / length) + np.log(right / said).mean()))

    if not len(counts):
        return Estimate.missing("no items", better="higher")
    value, (low, high) = score(np.arange(len(counts))), bootstrap(score, len(counts), seed=seed)
    details = {"library": "torchmetrics", "tokenizer": TOKENIZER}
    told: dict[str, Any] = {"value": value, "n": len(counts), "better": "higher", "details": details}
    if value == 0 or low is None:
        return Estimate(reason=ONE_ITEM if value else "no run of four words is right", **told)
    return Estimate(low=low, high=high, **told)


def cider(captions: Sequence[str], references: Sequence[Sequence[str]], *, seed: int = 0) -> Estimate:
    """CIDEr-D, sigma 6, times 10 (Vedantam et al., arXiv 1411.5726), by the COCO captions' own code, with document
    frequencies from these references; a bootstrap over captions. Missing without the package, and below two captions,
    where every word's weight would be 0."""
    if obstacle := cider_obstacle():
        return Estimate.missing(obstacle, better="higher")
    if len(captions) < 2:
        return Estimate.missing(f"CIDEr needs two captions or more, there are {len(captions)}", better="higher")
    from pycocoevalcap.cider.cider import Cider

    known = {i: [words_of(text) for text in texts] for i, texts in enumerate(references)}
    said = {i: [words_of(text)] for i, text in enumerate(captions)}
    _, values = Cider().compute_score(known, said)
    details = {"library": "pycocoevalcap", "tokenizer": TOKENIZER, "variant": "CIDEr-D, sigma 6"}
    return mean_estimate(values, keys=_names(list(known.values())), seed=seed, better="higher", details=details)


def _names(references: Sequence[Sequence[str]]) -> list[str]:
    return [f"{i}: {' | '.join(texts)}" for i, texts in enumerate(references)]
