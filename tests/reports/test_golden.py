"""Records of every version that ever was, frozen, load for ever: a new version brings a new file and an upgrade."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.files import hash_file, read_json
from reports import schema
from reports.document import document
from reports.html import html

GOLDEN = Path(__file__).parent / "golden"
FROZEN = {1: "ecd815d9f598969c", 2: "7fee69f950ef11fe", 3: "3131be5768cb633e"}
"""Version -> hash of its file: who changes one has thawed it."""


def test_every_version_has_its_golden_record_and_none_was_changed():
    assert set(FROZEN) == set(range(1, schema.VERSION + 1))
    assert {path.name for path in GOLDEN.iterdir()} == {f"record-{version}.json" for version in FROZEN}
    for version, digest in FROZEN.items():
        assert hash_file(GOLDEN / f"record-{version}.json") == digest


def test_what_the_first_version_said_is_still_read():
    record = schema.load(GOLDEN / "record-1.json")
    assert (record.schema, record.status, record.approach) == (schema.VERSION, "done", "modular")
    assert (record.key, record.seed, record.budgets.images) == ("28afa7190fa33e4e", 0, 192)
    assert record.metrics["validation_loss"].value == 1.2074542474001646
    assert record.metrics["perplexity_retention"].low == record.metrics["perplexity_retention"].high == 1.0
    assert record.metrics["validation_loss_t0_0.25"].reason == "no items"
    assert record.samples[0].trace["plan"] == "plan: large red circle 5 3; dark"
    assert record.curves["validation"][-1]["step"] == 8
    assert record.identical.diffusion["prediction"] == "flow"
    assert record.budgets.flops == 8 * 13707275776.0 and record.budgets.optimizer_flops_per_step is None


def test_the_second_version_counts_the_optimizers_operations():
    spent = schema.load(GOLDEN / "record-2.json").budgets
    assert spent.optimizer_flops_per_step and spent.flops_per_step == 13707275776.0 + spent.optimizer_flops_per_step
    assert spent.flops == 8 * spent.flops_per_step


def test_before_the_third_version_captions_may_stand_behind_the_start_token():
    prompts = [schema.load(GOLDEN / f"record-{n}.json").config["train"]["describe_prompt"] for n in FROZEN]
    assert prompts == ["", "", "picture: "]
    told = {**read_json(GOLDEN / "record-3.json"), "schema": 2}  # and may not
    assert schema.from_json(told, "x").config["train"]["describe_prompt"] == "picture: "


@pytest.mark.parametrize("version", FROZEN)
def test_it_makes_a_report(version: int):
    page = html(document([GOLDEN / f"record-{version}.json"]))
    assert "retention exactly 1" in page and "its file is missing" in page
