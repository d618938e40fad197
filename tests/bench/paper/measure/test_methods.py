"""Names of methods, and what each asks of the engine."""

import pytest

from bench.paper.measure.methods import method, parse_names
from server.engine.drafters.ngram import NgramDrafter
from server.engine.speculation.auto import AutoPolicy
from server.engine.speculation.policies import PolicyConfig
from server.engine.types import SpeculationParams
from server.errors import ConfigError
from tests.engine.tiny import FREE_DRAFTS


def test_the_papers_methods_by_default() -> None:
    assert parse_names(None, False) == ("plain", "chain", "beam4", "beam8", "cape", "auto")
    assert parse_names(None, True)[:2] == ("plain", "draft_model")


def test_plain_always_joins_and_the_order_is_the_tables() -> None:
    assert parse_names("cape, ngram", False) == ("plain", "ngram", "cape")


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"methods='medusa'.*beam8, cape, auto"):
        parse_names("cape,medusa", True)
    with pytest.raises(ConfigError, match="--draft-model"):
        parse_names("draft_model", False)


def test_beams_fit_their_rows() -> None:
    config, auto = PolicyConfig(), AutoPolicy(FREE_DRAFTS)
    eight = method("beam8", NgramDrafter(), config, auto)
    assert eight.params == SpeculationParams("beam", 4, max_nodes=33)
    assert eight.speculator is not None
    assert eight.speculator.config.beam_width == 8
    assert method("plain", NgramDrafter(), config, auto).speculator is None
