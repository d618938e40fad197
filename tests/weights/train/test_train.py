"""Training a draft from text to folder, on a tiny target."""

import io
import json
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

from server.errors import CheckpointError, ConfigError
from server.models.layers import Placement
from tests.weights.train.tiny import (
    CPU,
    STOP_ID,
    VOCABULARY,
    no_prompt,
    tiny_config,
    tiny_target,
    write_text,
)
from weights.glide import load_glide
from weights.train.checks import check_resumed
from weights.train.config import TrainConfig, chosen_layers
from weights.train.features.target import TrainTarget
from weights.train.fit import run as run_module
from weights.train.fit import trainer as trainer_module
from weights.train.fit.run import TrainingRun
from weights.train.fit.trainer import Learner, Part, Trainer, TrainingError
from weights.train.fit.validate import Validation
from weights.train.shards import read_shards
from weights.train.text.samples import Sample
from weights.train.train import learn, prepare, train

QUIET = Console(quiet=True)


@pytest.fixture(scope="module")
def target() -> TrainTarget:
    return tiny_target()


@pytest.fixture(scope="module")
def text(target: TrainTarget, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_text(tmp_path_factory.mktemp("text") / "text.jsonl", target, 1200)


def run(config: TrainConfig, target: TrainTarget) -> Validation:
    found = train(config, target, no_prompt, {STOP_ID}, QUIET).validation
    assert found is not None
    return found


def records(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "curve.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("glimpse_hidden", [False, True])
def test_a_tiny_target_learns_to_be_predicted(
    target: TrainTarget, text: Path, tmp_path: Path, glimpse_hidden: bool
) -> None:
    config = tiny_config(tmp_path, text, steps=200, glimpse_hidden=glimpse_hidden)
    trained = run(config, target)
    first = records(config.out)[0]
    assert (first["kind"], first["step"]) == ("validation", 0)
    for before, after in zip(first["agreement"], trained.agreement, strict=True):
        assert after > before + 0.2
    assert trained.chain_tokens > first["chain_tokens"] + 0.7
    assert trained.loss < first["loss"] - 0.7
    assert (config.out / "curve.png").stat().st_size > 1000


def test_the_draft_can_be_served(target: TrainTarget, text: Path, tmp_path: Path) -> None:
    config = tiny_config(tmp_path, text, steps=2)
    run(config, target)
    stored = load_file(config.out / "model.safetensors")
    table = stored.pop("draft_token_ids")
    assert {tensor.dtype for tensor in stored.values()} == {torch.bfloat16}
    assert STOP_ID in table
    placement = Placement(CPU, torch.float32)
    draft = load_glide(config.out, target.config, placement, target.embedding, target.head)
    assert torch.equal(draft.draft_token_ids, table)
    assert draft.config.glimpse_layers == ((0, 2),)


class Killed(Exception):
    """Stands for a signal that can't be caught."""


def kill_after(monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    """The process ends while it learns step `steps` + 1."""
    whole = Trainer._step  # pyright: ignore[reportPrivateUsage]

    def step(self: Trainer, *arguments: Any) -> Any:
        result = whole(self, *arguments)
        if self.state.step == steps:
            raise Killed
        return result

    monkeypatch.setattr(Trainer, "_step", step)


@pytest.mark.parametrize("kill_at", [0, 3, 37])
def test_resume_equals_an_unbroken_run(
    target: TrainTarget, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kill_at: int
) -> None:
    """Steps of two epochs; a checkpoint after every step."""
    few = tmp_path / "few.jsonl"
    few.write_text("".join(text.read_text().splitlines(keepends=True)[:400]))
    whole, broken = (tiny_config(tmp_path / name, few, steps=40) for name in ("a", "b"))
    run(whole, target)
    with monkeypatch.context() as context, pytest.raises(Killed):
        kill_after(context, kill_at)
        run(broken, target)
    run(broken, target)
    expected, found = (
        torch.load(config.work / "checkpoint.pt", weights_only=True) for config in (whole, broken)
    )
    for name, weight in expected["draft"].items():
        assert torch.equal(weight, found["draft"][name]), name
    assert expected["state"]["epoch"] == found["state"]["epoch"] == 1
    stored = [(config.out / "model.safetensors").read_bytes() for config in (whole, broken)]
    assert stored[0] == stored[1]
    looks = [
        [{**record, "seconds": 0} for record in records(config.out) if "chain_tokens" in record]
        for config in (whole, broken)
    ]
    assert looks[0] == looks[1]


def test_a_finished_run_can_go_on_longer(target: TrainTarget, text: Path, tmp_path: Path) -> None:
    config = tiny_config(tmp_path, text, steps=3)
    run(config, target)
    run(replace(config, steps=5), target)
    assert records(config.out)[-1]["step"] == 5


def checkpoint(config: TrainConfig) -> dict[str, Any]:
    return torch.load(config.work / "checkpoint.pt", weights_only=True)


def assert_same_weights(one: TrainConfig, other: TrainConfig) -> None:
    expected, found = checkpoint(one), checkpoint(other)
    for part in ("draft", "average"):
        for name, weight in expected[part].items():
            assert torch.equal(weight, found[part][name]), (part, name)


def test_more_time_goes_on_from_before_the_rate_fell(
    target: TrainTarget, text: Path, tmp_path: Path
) -> None:
    """A run that ends after some steps and then gets more comes to what one of them all does:
    nothing of the decay stays, however often the end is put off."""
    whole, longer, later, often = (tiny_config(tmp_path / n, text, steps=24) for n in "abcd")
    run(whole, target)
    run(replace(longer, steps=10), target)
    first = load_file(longer.out / "model.safetensors")
    run(longer, target)
    for steps in (10, 11, 24):  # by the second plan the rate has fallen further already
        run(replace(later, steps=steps), target)
    for steps in (3, 10, 17, 24):  # with three, no step is within the decay
        run(replace(often, steps=steps), target)
    for other in (longer, later, often):
        assert_same_weights(whole, other)
    last = load_file(longer.out / "model.safetensors")
    assert any(not torch.equal(last[name], first[name]) for name in first)


def rates_of(
    config: TrainConfig, target: TrainTarget, monkeypatch: pytest.MonkeyPatch
) -> list[float]:
    """The learning rate of each step of a run, as a share of the highest."""
    rates, whole = list[float](), Trainer._step  # pyright: ignore[reportPrivateUsage]

    def step(self: Trainer, *arguments: Any) -> Any:
        result = whole(self, *arguments)
        rates.append(self.learner.rate / config.learning_rate)
        return result

    with monkeypatch.context() as context:
        context.setattr(Trainer, "_step", step)
        run(config, target)
    return rates


def test_a_little_more_time_lets_the_rate_fall_further(
    target: TrainTarget, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the plan of 12 steps alone it would rise again to five sixths."""
    config = tiny_config(tmp_path, text, steps=12, warmup=0.0)
    first = rates_of(replace(config, steps=10), target, monkeypatch)
    assert first == pytest.approx([*[1.0] * 9, 0.5])
    assert rates_of(config, target, monkeypatch) == pytest.approx([0.5, 5 / 12])


def test_the_rate_rises_once(
    target: TrainTarget, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_config(tmp_path, text, steps=40, warmup=0.5, decay=0.2)
    first = rates_of(replace(config, steps=4), target, monkeypatch)
    assert first == pytest.approx([0.01, 0.5, 1.0, 1.0])
    more = rates_of(config, target, monkeypatch)
    assert len(more) == 36 and more[:28] == [1.0] * 28


def test_without_its_trunk_a_run_goes_on_from_fallen_weights(
    target: TrainTarget, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_config(tmp_path, text, steps=20)
    run(replace(config, steps=10), target)
    (config.work / "trunk.pt").unlink()
    output = io.StringIO()
    train(config, target, no_prompt, {STOP_ID}, Console(file=output))
    assert "trunk.pt is gone" in output.getvalue()
    assert checkpoint(config)["state"]["step"] == 20


def test_text_that_grew_after_the_rate_fell(
    target: TrainTarget, text: Path, tmp_path: Path
) -> None:
    lines = text.read_text().splitlines(keepends=True)
    (own := tmp_path / "own.jsonl").write_text("".join(lines[:800]))
    config = tiny_config(tmp_path, own, steps=10)
    run(config, target)
    own.write_text("".join(lines))
    run(replace(config, steps=30), target)
    state = checkpoint(config)["state"]
    assert (state["step"], state["epoch"]) == (30, 1)


def test_the_averaged_weights_are_written(target: TrainTarget, text: Path, tmp_path: Path) -> None:
    config = tiny_config(tmp_path, text, steps=30)
    run(config, target)
    state = torch.load(config.work / "checkpoint.pt", weights_only=True)
    written = load_file(config.out / "model.safetensors")
    for name, weight in state["average"].items():
        assert torch.equal(weight.bfloat16(), written[name]), name
    assert any(
        not torch.equal(weight.bfloat16(), written[name]) for name, weight in state["draft"].items()
    )


def test_text_that_grew_begins_a_new_epoch(target: TrainTarget, text: Path, tmp_path: Path) -> None:
    lines = text.read_text().splitlines(keepends=True)
    (own := tmp_path / "own.jsonl").write_text("".join(lines[:800]))
    config = tiny_config(tmp_path, own, steps=3)
    run(config, target)
    own.write_text("".join(lines))
    run(replace(config, steps=5), target)
    assert [record["epoch"] for record in records(config.out)][-1] == 1


def test_minutes_end_it(target: TrainTarget, text: Path, tmp_path: Path) -> None:
    config = tiny_config(tmp_path, text, minutes=0.02)
    run(config, target)
    # Of 1.2 seconds at most half are kept free for the last look; the step under way is finished.
    assert 0.6 <= records(config.out)[-1]["seconds"] < 60


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"draft_vocab_size": 20}, "another draft: it differs in 'draft_vocab_size'"),
        ({"work": "elsewhere"}, "holds a draft already"),
    ],
)
def test_an_out_folder_with_another_draft(
    target: TrainTarget, text: Path, tmp_path: Path, changes: dict[str, Any], reason: str
) -> None:
    config = tiny_config(tmp_path, text, steps=1)
    run(config, target)
    before = (config.out / "model.safetensors").read_bytes()
    if "work" in changes:
        changes = {"work": tmp_path / str(changes["work"])}
    with pytest.raises(CheckpointError, match=reason):
        run(replace(config, **changes), target)
    assert (config.out / "model.safetensors").read_bytes() == before


def test_an_out_folder_with_a_draft_of_other_layers(
    target: TrainTarget, text: Path, tmp_path: Path
) -> None:
    config = tiny_config(tmp_path, text, steps=1)
    run(config, target)
    with pytest.raises(CheckpointError, match="another draft: it differs in 'glimpse_layers'"):
        run(config, tiny_target(glimpse_layers=(1,)))


def test_the_out_folder_of_another_run(target: TrainTarget, text: Path, tmp_path: Path) -> None:
    """Another run's out folder is refused; a moved pair of folders is still a pair."""
    mine, other = (tiny_config(tmp_path / name, text, steps=1) for name in ("a", "b"))
    run(mine, target)
    run(replace(other, seed=1), target)
    before = (mine.out / "model.safetensors").read_bytes()
    with pytest.raises(CheckpointError, match=r"holds a draft already, which the run in .*b/work"):
        run(replace(other, seed=1, steps=2, out=mine.out), target)
    assert (mine.out / "model.safetensors").read_bytes() == before
    (tmp_path / "a").rename(tmp_path / "moved")
    run(tiny_config(tmp_path / "moved", text, steps=2), target)


def test_a_look_can_be_killed(
    target: TrainTarget, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a checkpoint right before it, nothing but the look is lost."""
    config = tiny_config(tmp_path, text, steps=5, checkpoint_seconds=1e6, validation_seconds=1e-6)
    whole, looks = TrainingRun.validate, 0

    def validate(self: TrainingRun) -> Validation | None:
        nonlocal looks
        looks += 1
        if looks == 4:  # one is before the first step
            raise Killed
        return whole(self)

    with monkeypatch.context() as context, pytest.raises(Killed):
        context.setattr(TrainingRun, "validate", validate)
        run(config, target)
    assert torch.load(config.work / "checkpoint.pt")["state"]["step"] == 3


def test_ctrl_c_keeps_all_steps(
    target: TrainTarget, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is pressed amid an update of the weights, which is finished, counted and kept."""
    whole, broken = (
        tiny_config(tmp_path / name, text, steps=5, checkpoint_seconds=1e6) for name in ("a", "b")
    )
    run(whole, target)
    update = Trainer._update  # pyright: ignore[reportPrivateUsage]

    def pressed(self: Trainer, *arguments: Any) -> None:
        if self.state.step == 2:
            signal.raise_signal(signal.SIGINT)
        update(self, *arguments)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in background jobs
    try:
        with monkeypatch.context() as context, pytest.raises(KeyboardInterrupt):
            context.setattr(Trainer, "_update", pressed)
            run(broken, target)
    finally:
        signal.signal(signal.SIGINT, before)
    assert torch.load(broken.work / "checkpoint.pt")["state"]["step"] == 3
    run(broken, target)
    stored = [(config.out / "model.safetensors").read_bytes() for config in (whole, broken)]
    assert stored[0] == stored[1]


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_what_is_no_number_ends_it_before_it_is_learnt(
    target: TrainTarget,
    text: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    what: str,
) -> None:
    config = tiny_config(tmp_path, text, steps=5)
    whole = trainer_module.gradients

    def broken(learner: Learner, *arguments: Any) -> Part:
        part = whole(learner, *arguments)
        if int(learner.optimizer.state_dict()["state"].get(0, {"step": 0})["step"]) < 2:
            return part
        if what == "loss":
            return part._replace(result=part.result._replace(loss=float("nan")))
        return part._replace(gradients=tuple(x * float("inf") for x in part.gradients))

    monkeypatch.setattr(trainer_module, "gradients", broken)
    with pytest.raises(TrainingError, match=r"^step 3: the loss is .*checkpoint .* is kept$"):
        run(config, target)
    kept = torch.load(config.work / "checkpoint.pt")
    assert kept["state"]["step"] == 2
    assert all(bool(weight.isfinite().all()) for weight in kept["draft"].values())


@pytest.mark.parametrize("name", ["seed", "learning_rate", "batch_tokens"])
def test_a_run_keeps_its_settings(
    target: TrainTarget, text: Path, tmp_path: Path, name: str
) -> None:
    config = tiny_config(tmp_path, text, steps=1)
    run(config, target)
    changed = replace(config, **{name: getattr(config, name) * 2 + 1})
    with pytest.raises(CheckpointError, match=rf"other settings: {name} .* -> "):
        run(changed, target)


def test_a_broken_checkpoint(target: TrainTarget, text: Path, tmp_path: Path) -> None:
    config = tiny_config(tmp_path, text, steps=1)
    run(config, target)
    path = config.work / "checkpoint.pt"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match=r"checkpoint\.pt: can't be read"):
        run(config, target)


def test_layers_that_are_asked_for(target: TrainTarget, text: Path, tmp_path: Path) -> None:
    config = tiny_config(tmp_path, text, glimpse_layers=(0, -1))
    assert chosen_layers(config, target.config) == (0, 2)
    assert chosen_layers(replace(config, glimpse_layers=()), target.config) == ()
    assert chosen_layers(replace(config, glimpse_layers=None), target.config) is None
    for layer in (3, -4):
        with pytest.raises(ConfigError, match=f"glimpse_layers={layer}: the target has 3 layers"):
            chosen_layers(replace(config, glimpse_layers=(0, layer)), target.config)


def test_too_little_text(target: TrainTarget, text: Path, tmp_path: Path) -> None:
    """The only prompt is one of those held out, and random tokens beside it are no text."""
    entries = map(json.loads, text.read_text().splitlines())
    entry = next(
        entry
        for entry in entries
        if Sample(np.array(entry["prompt_ids"], dtype=np.int32), 3).held_out
    )
    entry["response_ids"] = [1 + i % 40 for i in range(200)]
    (few := tmp_path / "few.jsonl").write_text(json.dumps(entry) + "\n")
    config = tiny_config(tmp_path, few, steps=1, copied_share=0.5)
    assert len(read_shards(config, no_prompt, VOCABULARY, {STOP_ID})[0].samples) > 1
    with pytest.raises(ConfigError, match="1 samples are too few to learn from"):
        run(config, target)


def test_nothing_held_out_is_said(target: TrainTarget, text: Path, tmp_path: Path) -> None:
    entries = [json.loads(line) for line in text.read_text().splitlines()]
    learnt = [
        json.dumps(entry)
        for entry in entries
        if not Sample(np.array(entry["prompt_ids"], dtype=np.int32), 3).held_out
    ]
    (few := tmp_path / "few.jsonl").write_text("\n".join(learnt[:60]))
    config = tiny_config(tmp_path, few, steps=2)
    console = Console(file=(file := io.StringIO()), width=200)
    assert train(config, target, no_prompt, {STOP_ID}, console).validation is None
    assert "no figures: nothing is held out" in file.getvalue()
    assert "held-out text" not in file.getvalue()
    assert records(config.out) == []
    assert (config.out / "curve.png").exists()
    assert (config.out / "model.safetensors").exists()


def test_text_beyond_the_deadline_is_left_out(
    target: TrainTarget, text: Path, tmp_path: Path
) -> None:
    config = tiny_config(tmp_path, text, steps=2, copied_share=0.0)
    console = Console(file=(file := io.StringIO()), width=200)
    data = prepare(config, target, no_prompt, {STOP_ID}, console, deadline=0.0)
    (features,) = (config.work / "features").glob("*.safetensors")
    assert {at.shard.name for at in data.training} == {features.stem}
    tokens = sum(at.sample.num_tokens for at in (*data.training, *data.held_out))
    line = f"is up: {1200 * 28 - tokens:,} of 33,600 tokens of text are left out"
    assert line in file.getvalue()
    again = prepare(config, target, no_prompt, {STOP_ID}, console, deadline=0.0)
    assert again.digest == data.digest
    trained = learn(config, target, data, console)
    assert trained.state.step == 2
    assert trained.data is data


def test_a_longer_run_keeps_the_features_of_a_shorter_one(
    target: TrainTarget, text: Path, tmp_path: Path
) -> None:
    config = tiny_config(tmp_path, text, steps=2)
    folder, ticks = config.work / "features", list[int]()

    def tick() -> None:
        ticks.append(len(list(folder.glob("*.safetensors"))))

    def features(config: TrainConfig) -> dict[str, int]:
        prepare(config, target, no_prompt, {STOP_ID}, QUIET, tick=tick)
        return {path.name: path.stat().st_mtime_ns for path in folder.glob("*.safetensors")}

    whole = features(config)
    assert ticks == list(range(1, len(whole) + 1))
    size = next(folder.glob("*.safetensors")).stat().st_size
    for path in folder.glob("*.safetensors"):
        path.unlink()
    few = features(replace(config, feature_bytes=size))
    assert 0 < len(few) < len(whole)
    assert features(config).items() >= few.items()
    assert features(replace(config, feature_bytes=size)).keys() == whole.keys()


def test_whole_vocabulary(target: TrainTarget, text: Path, tmp_path: Path) -> None:
    config = tiny_config(tmp_path, text, steps=2, draft_vocab_size=8192)
    run(config, target)
    assert "draft_token_ids" not in load_file(config.out / "model.safetensors")
    longer = replace(config, steps=3)
    check_resumed(longer, target.config)
    run(longer, target)
    assert records(config.out)[-1]["step"] == 3


def test_another_vocabulary_is_refused_by_name(
    target: TrainTarget, text: Path, tmp_path: Path
) -> None:
    config = tiny_config(tmp_path, text, steps=1)
    run(config, target)
    check_resumed(config, target.config)
    for name, value, was in (("draft_vocab_size", 40, 48), ("context_vocab_size", 5, 128)):
        with pytest.raises(ConfigError, match=f"{name}={value}: .*{name}={was}"):
            check_resumed(replace(config, **{name: value}), target.config)


def test_features_of_an_earlier_version(target: TrainTarget, text: Path, tmp_path: Path) -> None:
    config = tiny_config(tmp_path, text, steps=1)
    run(config, target)
    index = config.work / "features" / "features.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | {"vocabulary": [1, 2]}))
    with pytest.raises(CheckpointError, match="earlier version"):
        run(config, target)


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"text": ()}, "text"),
        ({"minutes": -1}, "minutes"),
        ({"steps": 0}, "steps"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**43}, "seed"),
        ({"top_k": 48}, "top_k"),
        ({"warmup": 1.0}, "warmup"),
        ({"weight_decay": -0.1}, "weight_decay"),
        ({"max_sample_tokens": 3}, "max_sample_tokens"),
    ],
)
def test_bad_settings_are_named(tmp_path: Path, changes: dict[str, Any], key: str) -> None:
    with pytest.raises(ConfigError, match=f"^{key}="):
        replace(tiny_config(tmp_path, tmp_path / "text.jsonl"), **changes)


def test_the_largest_seed(target: TrainTarget, text: Path, tmp_path: Path) -> None:
    run(tiny_config(tmp_path, text, steps=1, seed=2**43 - 1), target)


def test_without_matplotlib_there_is_no_picture(
    target: TrainTarget, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_module, "draw_curve", lambda folder, records: False)
    config = tiny_config(tmp_path, text, steps=1)
    run(config, target)
    assert not (config.out / "curve.png").exists()
    assert (config.out / "curve.jsonl").exists()
