"""The answer in words says what the numbers say, and nothing without its marks of honesty."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from metrics.statistics import Estimate
from reports.contenders import Contender, Judge, contenders
from reports.gather import Gathered, Refused, Run
from reports.honesty import marks_of_honesty
from reports.looks import Looks, said_of
from reports.schema import Budgets
from reports.tables import marks_of
from reports.words import answers
from tests.reports.records import APPROACHES, contender, record_of


def everyone(seeds: int = 1, **changes: object):
    runs = [Run(record=record_of(n, seed=s, **changes), folder=Path("x")) for n in APPROACHES for s in range(seeds)]
    return contenders(runs, APPROACHES)


def test_each_question_is_answered_from_its_number():
    told = {answer.question: answer for answer in answers(everyone(), Judge())}
    assert told["Keeps its text"].brief == (
        "dual_tower, projection and modular keep the language model as it was, while full_retraining loses some of its "
        "text."
    )
    assert told["Draws best"].brief == "By FD (efficientnet lite0), dual_tower draws the best pictures."
    assert "Real pictures are 1.25 from other real ones" in told["Draws best"].words
    assert "full_retraining (0.900 [0.8" in told["Uses the words at all"].words
    assert told["Describes best"].brief == "By attribute F1, nobody is told apart from the leader."
    assert "from 4 million (full_retraining and dual_tower) to 8 million (projection)" in told["Costs"].words
    assert told["Costs"].brief == "Training takes from 1 TFLOP (dual_tower) to 3 TFLOP (projection)."


def test_scores_of_another_clip_are_not_said_to_be_the_shipped_one_s():
    def told(*models: str) -> str:
        ways = [
            contender(
                f"way {model} {place}", clip_score=Estimate(value=20, low=19, high=21, n=9, details={"model": model})
            )
            for place, model in enumerate(models)
        ]
        return " ".join(marks_of_honesty(ways, Gathered(runs=(), refused=()), Judge()))

    small = "CLIP scores are by a small CLIP trained on this world's captions"
    assert small in told("clip-tiny", "clip-tiny")
    assert "CLIP scores are by ViT-L-14/openai: " in told("ViT-L-14/openai") and small not in told("ViT-L-14/openai")
    assert "by ViT-L-14/openai and clip-tiny: " in told("clip-tiny", "ViT-L-14/openai")


def test_who_was_trained_towards_the_features_that_judge_it_is_told():
    def told(encoder: str, *debts: str) -> list[str]:
        config = {"preset": "tiny", "seed": 0, "model": {"encoder": encoder}}
        made = [
            record_of(name, config=config, budgets=Budgets(borrowed={debt: 10**6}))
            for name, debt in zip(APPROACHES, debts, strict=False)
        ]
        ways = contenders([Run(record=record, folder=Path("x")) for record in made], APPROACHES)
        return [mark for mark in marks_of_honesty(ways, Gathered(), Judge()) if "trained towards" in mark]

    (mark,) = told("efficientnet_lite0", "vae", "encoder")
    assert mark.startswith(
        "dual_tower was trained towards features of efficientnet_lite0, on which FD and KID are taken"
    )
    assert not told("dinov2", "vae", "encoder") and not told("efficientnet_lite0", "vae", "vae")


def test_who_is_level_with_the_leader_comes_by_value_and_who_is_behind_is_told():
    def of(label: str, value: float, reach: float) -> Contender:
        estimate = Estimate(value=value, low=value - reach, high=value + reach, n=64, better="lower")
        return contender(label, fd_efficientnet_lite0=estimate)

    # the third is farther from the first than the second, and yet not told apart: its interval is wide
    ways = [of("wide", 15, 6), of("far", 14, 1), of("first", 10, 1), of("near", 11, 1)]
    (told,) = answers(ways, Judge())
    assert told.words == (
        "By FD (efficientnet lite0), first (10.0 [9.0, 11.0]) leads; not told apart from it: near (11.0 [10.0, 12.0]) "
        "and wide (15.0 [9.0, 21.0]); behind: far (14.0 [13.0, 15.0])."
    )
    assert told.brief == (
        "By FD (efficientnet lite0), first draws the best pictures; near and wide are not told apart from it."
    )


def test_what_real_pictures_are_apart_is_a_mean_over_contenders():
    def of(value: float, null: float, vae: float) -> Estimate:
        return Estimate(
            value=value, low=value - 0.1, high=value + 0.1, n=9, better="lower", details={"null": null, "vae": vae}
        )

    ways = [contender("a", fid=of(10.0, 1.0, 4.0)), contender("b", fid=of(11.0, 2.0, 6.0))]
    (said,) = (each.words for each in answers(ways, Judge()) if each.question == "Draws best")
    assert "Real pictures are 1.5 from other real ones, and 5 once they went through the VAE: about what" in said


def test_text_is_kept_lost_unsure_or_better_by_the_interval():
    def of(value: float, low: float | None, high: float | None) -> str:
        estimate = Estimate(value=value, low=low, high=high, n=9, better="higher", reason="" if low else "one document")
        return answers([contender("way", perplexity_retention=estimate)], Judge())[0].words

    assert "loses nothing" in of(1, 1, 1)
    assert "loses some" in of(0.9, 0.85, 0.95)
    assert "no loss can be told" in of(0.98, 0.9, 1.05)
    assert "no loss can be told" in of(0.5, None, None)
    assert "better at it than before" in of(1.2, 1.1, 1.3)


@pytest.mark.parametrize(
    ("retention", "said"),
    [
        ((0.7, 0.69, 0.71), "way loses some: retention 0.700 [0.690, 0.710], where 1 is nothing lost"),
        ((1.28, 1.2, 1.36), "way is better at it than before (1.280 [1.200, 1.360])"),
        ((0.99, 0.97, 1.01), "of way (0.990 [0.970, 1.010]) no loss can be told"),
    ],
)
def test_what_is_lost_of_text_that_is_not_replayed_is_told_whatever_replay_keeps(
    retention: tuple[float, float, float], said: str
):
    value, low, high = retention
    ways = [
        contender(
            "way",
            perplexity_retention=Estimate(value=value, low=low, high=high, n=9, better="higher"),
            perplexity_retention_world=Estimate(value=0.3, low=0.29, high=0.31, n=9, better="higher"),
            perplexity_retention_a=Estimate(value=0.7, low=0.69, high=0.71, n=9, better="higher"),
            perplexity_retention_b=Estimate.missing("none"),
        )
    ]
    (told,) = answers(ways, Judge())
    assert told.words == (
        f"{said}, and of text that is not replayed it keeps 0.700 [0.690, 0.710] of a and 0.300 [0.290, 0.310] of "
        "world."
    )
    assert told.brief == "way loses some of its text."


def test_a_skill_that_is_lost_is_told_beside_what_is_kept_of_text():
    def said(value: float, high: float) -> str:
        right = Estimate(value=value, low=0.0, high=high, n=9, unit="share", better="higher", details={"base": 0.92})
        kept = Estimate(value=0.7, low=0.69, high=0.71, n=9, better="higher")
        return answers([contender("way", perplexity_retention=kept, plans_right=right)], Judge())[0].words

    assert said(0.01, 0.02).endswith(
        "where 1 is nothing lost, and it answers 1.0 [0.0, 2.0] % of captions with a right plan, its base 92 %."
    )
    assert said(0.90, 0.95).endswith("where 1 is nothing lost.")


def test_a_first_drawing_is_told_beside_what_redraws_come_to():
    once, again, other = (
        Estimate(value=value, low=value - 0.1, high=value + 0.1, n=9, better="higher", unit="share")
        for value in (0.4, 0.6, 0.5)
    )
    ways = [
        contender("again", scene_accuracy=again, scene_accuracy_0_redraws=once),
        contender("way", scene_accuracy=other),
    ]
    (told,) = (answer for answer in answers(ways, Judge()) if answer.question == "Draws what the words say")
    assert "again (0.60 [0.50, 0.70]; drawn once 0.40 [0.30, 0.50])" in told.words


def test_pairs_that_chance_has_no_part_in_are_not_counted():
    kept, lost = (Estimate(value=v, low=v - w, high=v + w, n=9, better="higher") for v, w in ((1.0, 0.0), (0.7, 0.01)))
    count = Estimate.counted(3.0, unit="parameters", better="lower")
    ways = [contender(name, perplexity_retention=kept, parameters_trained=count) for name in "ab"]
    ways += [contender(name, perplexity_retention=lost, parameters_trained=count) for name in "cd"]
    right = Estimate(value=0.8, low=0.7, high=0.9, n=9, unit="share", better="higher")
    ways[:2] = [
        contender(name, perplexity_retention=kept, parameters_trained=count, plans_right=right) for name in "ab"
    ]
    told = [mark for mark in marks_of_honesty(ways, Gathered(runs=(), refused=()), Judge()) if "told apart" in mark]
    assert told and told[0].startswith(
        "Of 1 comparison of two contenders by a main number that chance has a part in, 0 are told apart."
    )


def test_a_question_without_a_number_is_left_out():
    assert [answer.question for answer in answers([contender("way")], Judge())] == []


def test_the_marks_of_honesty():
    found = everyone()
    lost = Gathered(runs=(Run(record=record_of("modular", status="failed"), folder=Path("x")),),
                    refused=(Refused(place="a", reason="b"),))  # fmt: skip
    told = " ".join(marks_of_honesty(found, lost, Judge()))
    assert "one seed: intervals cover the sampling of what was measured, not the training" in told
    assert "EfficientNet-Lite0" in told
    assert "12 items for text retention" in told and "64 items for FD (efficientnet lite0)" in told
    assert "told apart. Each is judged at the 5% level" in told
    assert "1 run not done and 1 record refused" in told
    assert "means nothing" not in told and "mean nothing" not in told


def test_of_contenders_with_other_counts_the_fewest_items_are_told():
    ways = [
        contender(label, clip_score=Estimate(value=20.0, low=19.0, high=21.0, n=n, better="higher"))
        for label, n in (("a", 100), ("b", 50))
    ]
    told = " ".join(marks_of_honesty(ways, Gathered(runs=(), refused=()), Judge()))
    assert "The numbers rest on 50 items for" in told and "100" not in told


def test_with_seeds_the_intervals_are_said_to_cover_training():
    told = " ".join(marks_of_honesty(everyone(seeds=2), Gathered(), Judge()))
    assert "Means over seeds for full_retraining (2), dual_tower (2)" in told and "one seed" not in told


def test_smoke_says_that_its_numbers_mean_nothing():
    told = " ".join(marks_of_honesty(everyone(config={"preset": "smoke", "seed": 0}), Gathered(), Judge()))
    assert "its numbers mean nothing" in told


def looked_at(label: str, seeds: int = 2, **values: float) -> Contender:
    """Numbers with intervals of 1 either way, the same for every seed."""
    one = contender(
        label, **{n: Estimate(value=v, low=v - 1, high=v + 1, n=64, better="lower") for n, v in values.items()}
    )
    records = [replace(one.record, config={**one.record.config, "seed": seed}) for seed in range(seeds)]
    return replace(one, runs=tuple(replace(one.runs[0], record=record) for record in records))


def test_what_is_left_of_many_looks_is_named():
    ways = [
        looked_at("a", fd_efficientnet_lite0=1, validation_loss=1),
        looked_at("b", fd_efficientnet_lite0=1, validation_loss=2.5),
        looked_at("c", fd_efficientnet_lite0=9, validation_loss=2.6),
    ]
    (told,) = [text for text in marks_of_honesty(ways, Gathered(), Judge()) if "Holm" in text]
    assert "Of 6 comparisons of two contenders by a main number that chance has a part in, 4 are told apart." in told
    assert told.endswith("With Holm's correction for all 6, 2 are left: FD (efficientnet lite0) (a and b before c).")
    many = [looked_at(str(i), fd_efficientnet_lite0=9 * i) for i in range(7)]
    (told,) = [text for text in marks_of_honesty(many, Gathered(), Judge()) if "Holm" in text]
    assert told.endswith("With Holm's correction for all 21, 21 are left.")


def test_one_training_has_no_p_value_for_another():
    ways = [looked_at("a", validation_loss=1), looked_at("b", seeds=1, validation_loss=9)]
    (told,) = [text for text in marks_of_honesty(ways, Gathered(), Judge()) if "comparison" in text]
    assert "Holm" not in told
    assert told.endswith("No correction for so many is told: of one training, chance is that of other items alone.")


def test_a_pair_that_rests_on_one_training_has_none_either():
    """Both were trained twice, but with one seed in common, or with one number missing."""
    first, second = looked_at("a", validation_loss=1), looked_at("b", validation_loss=9)
    for later, said in ((1, False), (2, True)):
        records = [
            replace(run.record, config={**run.record.config, "seed": run.record.seed + later}) for run in second.runs
        ]
        ways = [first, replace(second, runs=tuple(replace(second.runs[0], record=record) for record in records))]
        (told,) = [text for text in marks_of_honesty(ways, Gathered(), Judge()) if "comparison" in text]
        assert ("With Holm" in told) == said


def test_who_was_measured_otherwise_is_neither_level_nor_behind():
    def of(label: str, value: float, **more: object) -> Contender:
        estimate = Estimate(value=value, low=value - 1, high=value + 1, n=64, better="lower", **more)  # type: ignore[arg-type]
        return contender(label, fd_efficientnet_lite0=estimate)

    ways = [of("first", 10), of("far", 14), of("fewer", 30)]
    few = replace(ways[2].record.metrics["fd_efficientnet_lite0"], n=16)
    ways[2] = contender("fewer", fd_efficientnet_lite0=few)
    (told,) = answers(ways, Judge())
    assert told.words == (
        "By FD (efficientnet lite0), first (10.0 [9.0, 11.0]) leads, told apart from far (14.0 [13.0, 15.0]). Not "
        "compared with first: fewer (30.0 [29.0, 31.0]; of 64 and of 16 pictures, and its expectation depends on n)."
    )
    assert marks_of(ways, "fd_efficientnet_lite0", Judge()) == {"first": "best"}


def test_a_twentieth_of_the_pairs_is_expected_by_chance():
    assert "by chance alone about 2 would be" in said_of(Looks(pairs=40, apart=3, left=()))


def test_costs_of_several_machines_are_told_as_such():
    def way(label: str, value: float, machine: str) -> Contender:
        told = {"machine": machine} if machine else {}
        spent = Estimate(value=value, low=value, high=value, n=9, unit="s", better="lower", details=told)
        return contender(label, seconds_per_image=spent)

    unlike = [way("a", 1.0, "A, 1 thread"), way("b", 2.0, "B, 1 thread")]
    (answer,) = [each for each in answers(unlike, Judge()) if each.question == "Costs"]
    assert answer.words.endswith("2 [2, 2] s (b), taken on A, 1 thread and on B, 1 thread: not comparable.")
    said = "Not compared, because they were taken on A, 1 thread and on B, 1 thread: time per picture."
    assert said in marks_of_honesty(unlike, Gathered(runs=()), Judge())
    for order in ([2, 0, 1], [0, 2, 1]):
        ways = [way("a", 1.0, "A, 1 thread"), way("b", 2.0, "B, 1 thread"), way("c", 1.5, "")]  # the last is of before
        assert said in marks_of_honesty([ways[place] for place in order], Gathered(runs=()), Judge())
    alike = [way("a", 1.0, "A, 1 thread"), way("b", 2.0, "A, 1 thread"), way("c", 2.0, "")]
    (answer,) = [each for each in answers(alike, Judge()) if each.question == "Costs"]
    assert "not comparable" not in answer.words
    assert not any("Not compared" in sentence for sentence in marks_of_honesty(alike, Gathered(runs=()), Judge()))
