"""Configs: the JSON round trip, the fingerprint, and the bounds of every number."""

from __future__ import annotations

import dataclasses
import json
import math
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from approaches.shared.samplers import SAMPLERS, Prediction, SamplerName
from bench.config import Config, DiffusionConfig, TrainConfig, fingerprint, from_values, to_json
from bench.errors import UserError
from bench.presets import PRESETS, explain, load_config, preset
from bench.preview_arguments import PreviewArguments
from bench.ranges import Range
from bench.validation import check_bounds, describe, numbers, validate

TEXT = st.text(st.characters(codec="utf-8"), max_size=12)


def leaves(config: Any, prefix: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every field that is no dataclass: its path and its value."""
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            yield from leaves(value, (*prefix, field.name))
        else:
            yield (*prefix, field.name), value


def with_leaf(config: Any, path: tuple[str, ...], value: Any) -> Any:
    name, *rest = path
    changed = with_leaf(getattr(config, name), tuple(rest), value) if rest else value
    return dataclasses.replace(config, **{name: changed})


def hint_at(path: tuple[str, ...]) -> Any:
    kind: Any = Config
    for name in path:
        kind = typing.get_type_hints(kind, include_extras=True)[name]
    return kind


def another(path: tuple[str, ...], value: Any) -> Any:
    """A different value that the field's type allows."""
    hint = hint_at(path)
    if typing.get_origin(hint) is Literal:
        return next(choice for choice in typing.get_args(hint) if choice != value)
    if value is None:
        return "x"
    if isinstance(value, bool):
        return not value
    if isinstance(value, str):
        return f"{value}x"
    if isinstance(value, tuple):
        return (*value, "x" if isinstance(value[0], str) else 8)
    return value + 1


def values_of(hint: Any) -> st.SearchStrategy[Any]:
    """Any value of an annotation, inside its bounds."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        hints = typing.get_type_hints(hint, include_extras=True)
        return st.builds(hint, **{name: values_of(each) for name, each in hints.items()})
    if origin is typing.Annotated:
        kind, bounds = arguments
        assert isinstance(bounds, Range)
        if kind is int:
            return st.integers(math.ceil(bounds.low), int(bounds.high))
        return st.floats(bounds.low, bounds.high, exclude_min=bounds.above)
    if origin is Literal:
        return st.sampled_from(arguments)
    if origin is tuple:
        return st.lists(values_of(arguments[0]), max_size=4).map(tuple)
    if origin in (typing.Union, types.UnionType):
        return st.one_of(*map(values_of, arguments))
    return {str: TEXT, int: st.integers(), type(None): st.none(), bool: st.booleans()}[hint]


LEAVES = list(leaves(Config()))
NUMBERS = list(numbers(Config()))


@settings(max_examples=60)
@given(values_of(Config))
def test_json_gives_back_the_same_config(config: Config):
    text = to_json(config)
    again = from_values(Config, json.loads(text))
    assert again == config
    assert to_json(again) == text
    assert fingerprint(again) == fingerprint(config)


@pytest.mark.parametrize(("path", "value"), LEAVES, ids=[".".join(path) for path, _ in LEAVES])
def test_every_field_changes_the_fingerprint(path: tuple[str, ...], value: Any):
    changed = with_leaf(Config(), path, another(path, value))
    assert fingerprint(changed) != fingerprint(Config())
    assert from_values(Config, json.loads(to_json(changed))) == changed


def test_the_fingerprint_tells_kinds_apart():
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Other:
        seed: int = 0

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Another:
        seed: int = 0

    assert fingerprint(Other()) != fingerprint(Another())


@pytest.mark.parametrize("config", [Config(), PreviewArguments()], ids=["Config", "PreviewArguments"])
def test_every_number_has_bounds_and_stands_inside_them(config: Any):
    found = list(numbers(config))
    assert found
    assert [path for path, _, bounds in found if bounds is None] == []
    check_bounds(config)


def test_numbers_walks_every_number():
    numeric = [path for path, value in LEAVES if isinstance(value, int | float) and not isinstance(value, bool)]
    by_leaf = {".".join(path) for path in numeric}
    tuples = [(path, value) for path, value in LEAVES if isinstance(value, tuple) and not isinstance(value[0], str)]
    by_leaf |= {f"{'.'.join(path)}[{i}]" for path, value in tuples for i in range(len(value))}
    assert {path for path, _, _ in NUMBERS} == by_leaf


@pytest.mark.parametrize(("path", "value", "bounds"), NUMBERS, ids=[path for path, _, _ in NUMBERS])
def test_a_number_outside_its_bounds_is_refused_by_name(path: str, value: float, bounds: Range):
    name, _, index = path.partition("[")
    step = bounds.multiple if isinstance(value, int) else 1e-6 + bounds.high * 1e-6
    wrong = [bounds.low - step, bounds.high + step]
    if isinstance(value, float):
        wrong += [math.nan, math.inf, -math.inf]
    if bounds.above:
        wrong.append(bounds.low)
    for bad in wrong:
        number: Any = type(value)(bad)
        config = with_leaf(Config(), tuple(name.split(".")), (number,) if index else number)
        with pytest.raises(UserError) as caught:
            validate(config)
        assert str(caught.value) == f"{name}{'[0]' if index else ''} is {number}, expected {describe(bounds)}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plain(TrainConfig):
    """A stranger's class that declares a base's field again, without bounds."""

    batch: int = 7


def test_a_field_declared_again_keeps_the_bounds_of_its_base():
    with pytest.raises(UserError, match=r"^batch is 0, expected a value from 3 to 1000000$"):
        check_bounds(Plain(batch=0))


def test_a_config_s_words_are_those_that_diffusion_has() -> None:
    assert typing.get_args(hint_at(("diffusion", "prediction"))) == typing.get_args(Prediction) == tuple(SAMPLERS)
    assert typing.get_args(hint_at(("diffusion", "sampler"))) == typing.get_args(SamplerName)


@pytest.mark.parametrize("prediction", SAMPLERS)
@pytest.mark.parametrize("sampler", typing.get_args(hint_at(("diffusion", "sampler"))))
def test_a_sampler_must_fit_the_prediction(prediction: Any, sampler: Any):
    config = Config(diffusion=DiffusionConfig(prediction=prediction, sampler=sampler, shift=1.0))
    if sampler in SAMPLERS[prediction]:
        validate(config)
    else:
        with pytest.raises(UserError, match=rf"diffusion\.sampler is '{sampler}'.*'{prediction}'"):
            validate(config)


def test_every_prediction_and_sampler_has_a_place():
    assert set(SAMPLERS) == set(typing.get_args(hint_at(("diffusion", "prediction"))))
    assert {name for fitting in SAMPLERS.values() for name in fitting} == set(
        typing.get_args(hint_at(("diffusion", "sampler")))
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pretrain.lm.width": 200}, r"pretrain\.lm\.width is 200, expected a multiple of pretrain\.lm\.heads, 6"),
        ({"pretrain.lm.width": 198}, r"is 33, expected an even number"),
        ({"pretrain.lm.kv_heads": 4}, r"pretrain\.lm\.kv_heads is 4, expected a divisor of pretrain\.lm\.heads, 6"),
        ({"pretrain.vae.channels": ()}, r"pretrain\.vae\.channels is empty"),
        ({"data.size": 36, "pretrain.vae.channels": (8, 8, 8, 8)}, r"data\.size is 36, expected a multiple of 8"),
        ({"data.size": 34}, r"data\.size is 34, expected a multiple of 4 from 8 to 1024"),
        ({"pretrain.clip.patch": 5}, r"pretrain\.clip\.patch is 5, expected a divisor of data\.size, 32"),
        (
            {
                "diffusion.prediction": "epsilon",
                "diffusion.sampler": "ddim",
                "diffusion.shift": 1.0,
                "diffusion.train_times": 10,
            },
            r"diffusion\.nfe is 12, expected at most diffusion\.train_times, 10",
        ),
        (
            {"train.describe_share": 1.0},
            r"describe_share is 1\.0, which leaves none of train\.batch's 24 pictures to draw: expected 0\.9583333 or",
        ),
        ({"train.describe_share": 0.98}, r"describe_share is 0\.98, which leaves none"),
        (
            {"train.describe_share": 0.02},
            r"describe_share is 0\.02, which describes none of train\.batch's 24 pictures: expected about 0\.04166667,",
        ),
    ],
)
def test_fields_that_do_not_fit_each_other_are_refused(changes: dict[str, Any], message: str):
    config = Config()
    for path, value in changes.items():
        config = with_leaf(config, tuple(path.split(".")), value)
    with pytest.raises(UserError, match=message):
        validate(config)


@pytest.mark.parametrize("batch", [3, 7, 24, 2496, 999_983, 1_000_000])
def test_the_share_that_is_named_in_place_of_one_too_large_leaves_a_picture_to_draw(batch: int):
    config = Config(train=TrainConfig(batch=batch, describe_share=1.0))
    with pytest.raises(UserError) as caught:
        validate(config)
    share = float(str(caught.value).partition("expected ")[2].partition(" ")[0])
    validate(Config(train=TrainConfig(batch=batch, describe_share=share)))
    assert round(batch * share) == batch - 1


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_a_valid_config_that_names_itself_and_says_what_it_costs(name: str):
    config = preset(name)
    validate(config)
    assert config.preset == name
    assert from_values(Config, json.loads(to_json(config))) == config
    assert "core" in explain(name)
    assert "minutes" in explain(name)


def test_a_file_fills_its_gaps_from_the_preset_it_names(tmp_path: Path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"preset": "smoke", "data": {"size": 64}}))
    smoke = preset("smoke")
    assert load_config(path) == dataclasses.replace(smoke, data=dataclasses.replace(smoke.data, size=64))
    path.write_text(to_json(preset("smoke")))
    assert load_config(path) == smoke


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not readable as JSON"),
        ("[1]", "holds list, expected a JSON object"),
        ('{"sead": 1}', "unknown field 'sead': did you mean 'seed'"),
        ('{"data": {"sise": 1}}', r"unknown field 'data\.sise': did you mean 'size'"),
        ('{"data": {"size": "64"}}', r"data\.size is '64', expected int"),
        ('{"data": {"size": true}}', r"data\.size is True, expected int"),
        ('{"data": 3}', "data is 3, expected an object"),
        ('{"diffusion": {"sampler": "heum"}}', r"diffusion\.sampler is 'heum': did you mean 'heun'"),
        ('{"pretrain": {"vae": {"channels": 3}}}', r"channels is 3, expected a list"),
        ('{"pretrain": {"vae": {"channels": [1, "x"]}}}', r"channels\[1\] is 'x', expected int"),
        ('{"preset": "smok"}', "unknown preset 'smok': did you mean 'smoke'"),
        ('{"preset": 3}', "unknown preset '3'"),
        ('{"seed": 1.5}', r"seed is 1\.5, expected int"),
    ],
)
def test_a_bad_file_is_named_with_what_is_wrong_in_it(tmp_path: Path, text: str, message: str):
    path = tmp_path / "config.json"
    path.write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        load_config(path)
    assert str(path) in str(caught.value)


def test_nan_in_a_file_is_refused(tmp_path: Path):
    path = tmp_path / "config.json"
    path.write_text('{"diffusion": {"guidance": NaN}}')
    with pytest.raises(UserError, match="not readable as JSON: it holds NaN"):
        validate(load_config(path))
