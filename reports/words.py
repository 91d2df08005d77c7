"""The answer in plain words, made from the numbers by rule."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from metrics.statistics import COUNTED
from reports.contenders import Contender, Judge, unlike
from reports.glossary import RETENTION, Scale, first_of, listed, meaning, scale_of, written
from reports.looks import SKILL
from reports.schema import has
from reports.tables import (
    distance_name,
    is_distance,
    leader_of,
    marks_of,
    measured,
    null_distance,
)

CONTENT = ("scene_accuracy", "right_objects", "clip_score_gap", "clip_score", "clip_*")
LISTENING = ("heard_colours", "caption_gap")
ONCE = "_0_redraws"
PERCENT = Scale(factor=0.01, unit="%")
DESCRIBING = ("caption_attribute_f1", "caption_cider", "caption_exact_match")


@dataclass(frozen=True, kw_only=True)
class Answer:
    """question: what it answers, in two or three words. words: the sentence with its numbers. brief: without them, for
    the paragraph that stands first."""

    question: str
    words: str
    brief: str = ""


def answers(contenders: Sequence[Contender], judge: Judge) -> list[Answer]:
    """Who keeps text, who draws best, who listens, who describes, what each costs. A question without a number is left
    out."""
    every = measured(contenders)
    looks = distance_name(contenders) or first_of(("validation_loss",), every)
    content, listening, describing = (first_of(names, every) for names in (CONTENT, LISTENING, DESCRIBING))
    told = [
        _text(contenders),
        _lead(contenders, looks, judge, "Draws best", "draw the best pictures"),
        _lead(contenders, content, judge, "Draws what the words say", "draw most of what the words say"),
        _lead(contenders, listening, judge, "Uses the words at all", ""),
        _lead(contenders, describing, judge, "Describes best", "describe pictures best"),
        _costs(contenders, judge),
    ]
    return [answer for answer in told if answer.words]


def _text(contenders: Sequence[Contender]) -> Answer:
    """Who keeps the language model as it was, by the intervals of its retentions."""
    kept, lost, unsure = [], [], []
    losers = []
    for contender in contenders:
        estimate = contender.metrics.get(RETENTION)
        if estimate is None or estimate.value is None:
            continue
        told, beside = f"{contender.label} ({written(estimate)})", _not_replayed(contender)
        if any(
            e.high is not None and e.high < 1 for name, e in contender.metrics.items() if name.startswith(RETENTION)
        ):
            losers.append(contender.label)
        if estimate.low == estimate.high == 1.0:
            kept.append(contender.label)
        elif estimate.high is not None and estimate.high < 1:
            lost.append(f"{contender.label} loses some: retention {written(estimate)}, where 1 is nothing lost{beside}")
        elif estimate.low is not None and estimate.low > 1:
            lost.append(f"{contender.label} is better at it than before ({written(estimate)}){beside}")
        elif beside:
            lost.append(f"of {told} no loss can be told{beside}")
        else:
            unsure.append(told)
    parts = []
    if kept:
        parts.append(f"{listed(kept)} {'loses' if len(kept) == 1 else 'lose'} nothing (retention exactly 1)")
    parts += lost
    if unsure:
        parts.append(f"of {listed(unsure)} no loss can be told")
    brief = []
    if kept:
        brief.append(f"{listed(kept)} {'keeps' if len(kept) == 1 else 'keep'} the language model as it was")
    if losers:
        brief.append(f"{listed(losers)} {'loses' if len(losers) == 1 else 'lose'} some of its text")
    return Answer(question="Keeps its text", words=_sentence("; ".join(parts)), brief=_sentence(", while ".join(brief)))


def _not_replayed(contender: Contender) -> str:
    """What it keeps of text that is not replayed, and of a skill: a closing clause, "" where that was not measured."""
    found = {name: contender.metrics[name] for name in sorted(contender.metrics) if name.startswith(f"{RETENTION}_")}
    said = [f"{written(e)} of {name.removeprefix(f'{RETENTION}_')}" for name, e in found.items() if e.value is not None]
    told = f", and of text that is not replayed it keeps {listed(said)}" if said else ""
    plans = contender.metrics.get(SKILL)
    base = plans.details.get("base") if plans is not None else None
    if plans is None or not isinstance(base, float) or plans.high is None or plans.high >= base:
        return told
    skill = f"it answers {written(plans, PERCENT)} % of captions with a right plan, its base {100 * base:.3g} %"
    return f"{told}; {skill}" if told else f", and {skill}"


def _sentence(text: str) -> str:
    return f"{text}." if text else ""


def _lead(contenders: Sequence[Contender], name: str | None, judge: Judge, question: str, deed: str) -> Answer:
    """Who is ahead in one number, and of whom it is told apart. deed: what is said of the leaders in brief, of several;
    "" for nothing."""
    having = [c for c in contenders if name and has(c.metrics, name)]
    if name is None or not having or not having[0].metrics[name].better:
        return Answer(question=question, words="")
    title, leader = meaning(name).title, leader_of(having, name, judge)
    strange = [c for c in having if c is not leader and not judge.word(leader, c, name)]
    having = [c for c in having if c not in strange]
    having.sort(key=lambda c: c.metrics[name].value or 0.0, reverse=leader.metrics[name].better == "higher")
    told = {c.label: f"{c.label} ({written(c.metrics[name])}{_once(c, name)})" for c in having}
    marks = marks_of(having, name, judge)
    level = [c.label for c in having if c.label in marks and c is not leader]
    rest = [told[c.label] for c in having if c.label not in marks]
    if len(having) == 1:
        words, brief = f"By {title}, there is only {told[leader.label]}.", ""
    elif not marks:
        words = f"By {title}, nobody is told apart from the leader, {leader.label}: {listed(list(told.values()))}."
        brief = f"By {title}, nobody is told apart from the leader." if deed else ""
    elif not level:
        words = f"By {title}, {told[leader.label]} leads, told apart from {listed(rest)}."
        verb, _, rest_of_it = deed.partition(" ")
        brief = f"By {title}, {leader.label} {verb}s {rest_of_it}." if deed else ""
    else:
        words = (
            f"By {title}, {told[leader.label]} leads; not told apart from it: "
            f"{listed([told[label] for label in level])}; behind: {listed(rest)}."
        )
        verb, _, rest_of_it = deed.partition(" ")
        near = f"{listed(level)} {'is' if len(level) == 1 else 'are'} not told apart from it"
        brief = f"By {title}, {leader.label} {verb}s {rest_of_it}; {near}." if deed else ""
    if strange:
        words += f" Not compared with {leader.label}: {listed([_strange(leader, c, name) for c in strange])}."
    if is_distance(name):
        words += _least(having, name)
    return Answer(question=question, words=words, brief=brief)


def _strange(leader: Contender, other: Contender, name: str) -> str:
    return f"{other.label} ({written(other.metrics[name])}; {unlike(leader, other, name)})"


def _once(contender: Contender, name: str) -> str:
    """What it gets by its first drawings, for as many evaluations as the others; "" where it draws each once."""
    if not has(contender.metrics, once := f"{name}{ONCE}"):
        return ""
    return f"; drawn once {written(contender.metrics[once])}"


def _least(having: Sequence[Contender], name: str) -> str:
    """What a distance can be expected to be at best."""
    null, vae = (
        [found for c in having if (found := null_distance(c, name, kind)) is not None] for kind in ("null", "vae")
    )
    said = f" Real pictures are {sum(null) / len(null):.3g} from other real ones" if null else ""
    if not vae:
        return said + ", of other captions." * bool(null)
    told = f"{sum(vae) / len(vae):.3g} once they went through the VAE: about what a perfect denoiser would get"
    return f"{said}, and {told}." if said else f" Real pictures are {told}."


def _costs(contenders: Sequence[Contender], judge: Judge) -> Answer:
    """The range of the main costs, with who stands at its ends."""
    parts, brief = [], ""
    for name, word in (
        ("parameters_trained", "trained parameters"),
        ("training_flops", "training"),
        ("seconds_per_image", "a picture"),
        ("peak_memory_bytes", "memory"),
    ):
        having = [c for c in contenders if has(c.metrics, name)]
        if not having or (name == "seconds_per_image" and any(c.metrics[name].low is None for c in having)):
            continue  # one look at a clock may be far off
        ranked = sorted(having, key=lambda c: c.metrics[name].value or 0.0)
        scale = scale_of(having[0].metrics[name].unit, [c.metrics[name].value or 0.0 for c in having])
        least, most = (f"{written(c.metrics[name], scale)} {scale.unit}".strip() for c in (ranked[0], ranked[-1]))
        gap = judge.difference(ranked[0], ranked[-1], name)
        exact = gap is not None and gap.estimate.reason == COUNTED
        level = least == most or (exact and judge.word(ranked[0], ranked[-1], name) == "not told apart")
        if level:
            parts.append(f"{word}: {least}" + (" for all" if len(having) > 1 else ""))
        else:
            ends = (_standing_at(each, ranked, name, scale) for each in (ranked[0], ranked[-1]))
            low, high = (f"{value} ({listed(who)})" for value, who in zip((least, most), ends, strict=True))
            strange = next((why for other in ranked[1:] if (why := unlike(ranked[0], other, name))), "")
            parts.append(f"{word}: from {low} to {high}" + (f", {strange}: not comparable" if strange else ""))
            if name == "training_flops" and not strange:
                brief = f"Training takes from {low} to {high}."
    text = "; ".join(parts)
    return Answer(question="Costs", words=_sentence(f"{text[:1].upper()}{text[1:]}"), brief=brief)


def _standing_at(end: Contender, ranked: Sequence[Contender], name: str, scale: Scale) -> list[str]:
    """The contenders whose number is written as that of one end."""
    shown = written(end.metrics[name], scale)
    return [c.label for c in ranked if written(c.metrics[name], scale) == shown]
