"""Where steps run on the device, what is captured at start, and what is remembered of it."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from server.config import ModelSettings, load_settings
from server.engine.speculation.tiers import AUTO_TIERS, PLAIN, StepShape, Tier
from server.engine.step.device.sizes import tier_for
from server.loading import graphs as build_graphs
from server.loading.draft import Draft
from server.loading.graphs import build_graphs as built
from server.loading.graphs import has_graphs
from server.models.layers import Placement
from tests.engine.drafting import glide, ngram, tiny_glide
from tests.engine.step.device.device import DeviceEngine
from tests.engine.tiny import CONFIG, CPU, MODEL, TinyEngine

CUDA = torch.device("cuda")
NGRAM = Draft(None, None, "ngram", "ngram")
GLIDE = Draft(tiny_glide(), None, "glide", "glide")


@pytest.mark.parametrize(
    ("settings", "device", "draft", "expected"),
    [
        ({}, CUDA, None, True),
        ({}, CUDA, GLIDE, True),
        ({}, CUDA, NGRAM, False),  # the host looks up
        ({}, CPU, GLIDE, False),
        ({"enforce_eager": True}, CUDA, GLIDE, False),
        ({"tensor_parallel_size": 2}, CUDA, GLIDE, False),
    ],
)
def test_where_there_are_graphs(
    settings: dict[str, object],
    device: torch.device,
    draft: Draft | None,
    expected: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(build_graphs, "gpu_kernels", lambda: "Triton")
    assert has_graphs(load_settings(ModelSettings, **settings), device, draft) is expected
    monkeypatch.setattr(build_graphs, "gpu_kernels", lambda: "torch")
    assert not has_graphs(load_settings(ModelSettings, **settings), device, draft)


@pytest.fixture
def prepared(monkeypatch: pytest.MonkeyPatch) -> list[StepShape]:
    """Shapes in the order of their capture."""
    found = list[StepShape]()
    monkeypatch.setattr(build_graphs.Graphs, "prepare", lambda _, shape: found.append(shape))  # pyright: ignore[reportUnknownLambdaType, reportUnknownArgumentType]
    return found


Build = Callable[..., list[str]]


@pytest.fixture
def build(tmp_path: Path) -> Build:
    """Builds a runner for the tiny models; its lines for people."""

    def run(**settings: object) -> list[str]:
        engine = DeviceEngine(CONFIG, glide)
        lines = list[str]()
        made = load_settings(ModelSettings, cache_dir=str(tmp_path), **settings)
        placement = Placement(CPU, torch.float32)
        limits = engine.scheduler.config
        built(made, engine.runner, limits, placement, "x", MODEL.hidden_size, lines.append)
        return lines

    return run


def test_auto_captures_all_tiers_of_all_batches_the_largest_first(
    build: Build, prepared: list[StepShape]
) -> None:
    lines = build()
    assert len(prepared) == len(set(prepared)) == 6 * len(AUTO_TIERS) * 2
    assert [shape.batch for shape in prepared[::10]] == [32, 16, 8, 4, 2, 1]
    assert {shape.tier for shape in prepared} == set(AUTO_TIERS)
    assert lines[0] == "capturing CUDA graphs: 0 of 60, next for 32 sequences …"
    assert lines[1] == "capturing CUDA graphs: 10 of 60, next for 16 sequences …"
    assert lines[-1].startswith("captured 60 CUDA graphs in ")


@pytest.mark.parametrize(
    ("settings", "tiers"),
    [
        ({"speculation_nodes": 8}, {PLAIN, Tier(2, 4), Tier(4, 8), Tier(6, 8), Tier(7, 8)}),
        ({"speculation_nodes": 3}, {PLAIN, Tier(2, 4)}),
        ({"speculation_nodes": 2}, {PLAIN, Tier(1, 2)}),
        ({"speculation_nodes": 64}, {*AUTO_TIERS, Tier(8, 64)}),
        ({"speculation_depth": 3}, {PLAIN, Tier(2, 4), Tier(3, 8), Tier(3, 16), Tier(3, 32)}),
        ({"speculation_depth": 1}, {PLAIN, Tier(1, 4), Tier(1, 8), Tier(1, 16)}),
        ({"speculation_depth": 16}, {*AUTO_TIERS, Tier(16, 32)}),
        ({"speculation_policy": "chain"}, {Tier(5, 8)}),
        ({"speculation_policy": "cape", "speculation_depth": 2}, {Tier(2, 32)}),
        ({"speculation_policy": "off"}, {PLAIN}),
        ({"speculation_policy": "beam"}, {PLAIN}),
    ],
)
def test_what_is_captured_is_what_the_settings_ask_for(
    settings: dict[str, object],
    tiers: set[Tier],
    build: Build,
    prepared: list[StepShape],
) -> None:
    build(**settings)
    assert {shape.tier for shape in prepared} == tiers


@pytest.mark.parametrize("depth", [None, 1, 2, 7, 16])
@pytest.mark.parametrize("nodes", [2, 3, 5, 33, 64])
def test_auto_drafts_as_deep_as_any_settings_allow_and_no_deeper(
    depth: int | None, nodes: int, build: Build, prepared: list[StepShape]
) -> None:
    """As on the host. A step's shape is made by `tier_for`, under which its cost is found too."""
    build(speculation_depth=depth, speculation_nodes=nodes)
    tiers = {shape.tier for shape in prepared}
    assert max(tier.depth for tier in tiers) == min(depth or 8, nodes - 1)
    assert all(tier == tier_for(*tier) for tier in tiers)
    assert PLAIN in tiers


def test_costs_are_remembered(
    build: Build, prepared: list[StepShape], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def prepare(graphs: build_graphs.Graphs, shape: StepShape) -> None:
        if (shape.batch, shape.tier) not in graphs.costs.seconds:
            prepared.append(shape)
            graphs.costs.measured(shape.batch, shape.tier, 0.25)

    monkeypatch.setattr(build_graphs.Graphs, "prepare", prepare)
    build()
    assert len(prepared) == 6 * len(AUTO_TIERS)
    build()
    assert len(prepared) == 6 * len(AUTO_TIERS)
    (path,) = (tmp_path / "profiles").iterdir()
    good = path.read_text()
    damages = "[[1, 2]]", good.replace("0.25", "NaN"), good.replace("0.25", "-1"), "[" * 100_000
    for count, damaged in enumerate(damages, 2):  # each counts as none
        path.write_text(damaged, encoding="utf-8")
        build()
        assert len(prepared) == count * 6 * len(AUTO_TIERS)


def test_another_draft_is_refused() -> None:
    engine = TinyEngine(CONFIG, ngram)
    placement, settings = Placement(CPU, torch.float32), load_settings(ModelSettings)
    with pytest.raises(ValueError, match="ngram does not draft on the device"):
        built(settings, engine.runner, engine.scheduler.config, placement, "x", 32, print)
