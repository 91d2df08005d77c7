"""Settings that would change nothing beside others are refused, so that no two runs seem to differ in them."""

from __future__ import annotations

from typing import Any

import pytest

from approaches.settings import DualTowerSettings, FullRetrainingSettings, ProjectionSettings, Settings
from bench.errors import UserError


@pytest.mark.parametrize(
    ("of", "given", "said"),
    [
        (
            FullRetrainingSettings,
            {"start": "scratch", "lm_learning_rate_ratio": 0.1},
            "settings.lm_learning_rate_ratio is a rate of weights of a language model, and settings.start scratch has "
            "none: leave it at 1",
        ),
        (
            FullRetrainingSettings,
            {"variant": "lora", "words_learning_rate_ratio": 3.0},
            "settings.words_learning_rate_ratio is a rate of .* settings.variant lora trains none: leave it at 1",
        ),
        (
            DualTowerSettings,
            {"words": "frozen", "words_learning_rate_ratio": 1.0},
            "a rate of a copy of the words, and settings.words frozen has none: leave it at 5",
        ),
        (
            DualTowerSettings,
            {"variant": "dual_projection", "words_learning_rate_ratio": 1.0},
            "settings.variant dual_projection has none: leave it at 5",
        ),
        (
            ProjectionSettings,
            {"words": "frozen", "words_learning_rate_ratio": 1.0},
            "settings.words frozen has none: leave it at 5",
        ),
    ],
)
def test_a_rate_of_nothing_is_refused(of: type[Settings], given: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        of(**given).check_asked()
    (ratio,) = (name for name in given if name.endswith("_ratio"))
    choice = {name: value for name, value in given.items() if name != ratio}
    of(**choice).check_asked()
    of(**{ratio: given[ratio]}).check_asked()
