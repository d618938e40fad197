"""`glidecape train` as a user meets it: what is refused before any work, and a run to its draft."""

import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from safetensors.torch import load_file

from server.cli.train import parse_count, train
from server.config import ModelSettings
from server.errors import CheckpointError, ConfigError
from server.models.glide_parameters import TOKEN_TABLE
from server.report import Report
from tests.weights.train.checkpoints import write_checkpoint
from weights.checkpoint import SINGLE_FILE
from weights.train import checks, pipeline, time_plan, work_folder
from weights.train.config import TrainConfig
from weights.train.text import stage
from weights.train.text.generate import Progress

Run = Callable[..., None]


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("targets") / "tiny")


@pytest.fixture
def run(target: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """The command with small sizes; any work fails unless the test says it may."""
    monkeypatch.setenv("GLIDECAPE_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("GLIDECAPE_DTYPE", "float32")

    def work(*arguments: object) -> None:
        raise AssertionError("work has begun")

    def call(*, works: bool = False, **options: Any) -> None:
        if not works:
            monkeypatch.setattr(stage, "build_model", work)
        small: dict[str, Any] = {
            "tokens": "3k",
            "minutes": 0.0,
            "epochs": 1.0,
            "draft_vocab_size": 64,
        }
        everything: dict[str, Any] = {"out": tmp_path / "out", "target": str(target)}
        train(**everything | small | options)

    return call


def some_text(folder: Path) -> Path:
    lines = [json.dumps({"text_ids": [97 + (i * j) % 16 for j in range(200)]}) for i in range(20)]
    path = folder / "t.jsonl"
    path.write_text("\n".join(lines))
    return path


@pytest.mark.parametrize(
    ("text", "count"),
    [("0", 0), ("20000", 20_000), ("500k", 500_000), ("20M", 20_000_000), ("1.5m", 1_500_000)],
)
def test_counts(text: str, count: int) -> None:
    assert parse_count("tokens", text) == count


@pytest.mark.parametrize("text", ["", "many", "-3", "20MB", "1e6", "5 M"])
def test_counts_that_are_none(text: str) -> None:
    with pytest.raises(ConfigError, match=r"tokens=.*expected a count such as 500k or 20M"):
        parse_count("tokens", text)


def test_bad_options_are_refused_before_any_work(run: Run, tmp_path: Path) -> None:
    missing = tmp_path / "none.jsonl"
    draft = tmp_path / "draft"
    draft.mkdir()
    (draft / "config.json").write_text("{}")
    for options, reason in (
        ({"tokens": "lots"}, "tokens='lots'"),
        ({"tokens": "0"}, "--text has to give some"),
        ({"prompts": missing}, "prompts=.*no such file"),
        ({"text": [missing]}, "text=.*no such file"),
        ({"glimpse_layers": "1,b"}, "glimpse_layers='1,b'"),
        ({"out": draft}, "holds another draft"),
        ({"seed": -1}, "seed=-1: must be between 0 and 8796093022207"),
    ):
        with pytest.raises(ConfigError, match=reason):
            run(**options)
    assert not list(tmp_path.glob("*.work"))


def test_an_unknown_target(run: Run) -> None:
    with pytest.raises(CheckpointError, match="/no/such/model"):
        run(target="/no/such/model")


def test_a_machine_too_small(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"work=.*MiB are needed, the disk has"):
        run(tokens="900G")
    monkeypatch.setattr(checks, "free_memory", lambda device: 2**20)
    with pytest.raises(ConfigError, match=r"target=.*takes about 0\.5 GiB of memory, 0\.0 GiB"):
        run()


def test_a_broken_prompt_is_named_by_its_line(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text('{"prompt": "a"}\n{"prompt": 1}\n')
    with pytest.raises(CheckpointError, match=r"p\.jsonl: line 2: prompt: expected a text"):
        run(prompts=path)


def test_broken_text_is_named_by_its_line(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text('{"text_ids": [1, 2, 3, 4]}\n{"text_ids": [1, 2, 300]}\n')
    with pytest.raises(CheckpointError, match=r"t\.jsonl: line 2: .*300"):
        run(text=[path])


def test_a_target_without_template_needs_prompts(run: Run, tmp_path: Path) -> None:
    plain = write_checkpoint(tmp_path / "plain", template=None)
    with pytest.raises(ConfigError, match="prompts=None: the target has no chat template"):
        run(target=str(plain))


def test_from_nothing_to_a_draft_and_on(
    run: Run, tmp_path: Path, target: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(works=True)
    out, work = tmp_path / "out", tmp_path / "out.work"
    assert json.loads((out / "config.json").read_text())["model_type"] == "glide"
    told = capsys.readouterr().err
    assert "plan: 3,000 tokens to be written" in told
    assert re.search(r"estimate: 3,000 tokens of text, .* GiB of disk; .* passes; then", told)
    assert f"--draft {out}" in told.replace("\n", "")
    card = (out / "card.md").read_text()
    assert f"# out\n\nA GliDe draft for {Path(target).name}.\n" in card
    assert re.search(r"^\| text\.jsonl \| \d+ \| 3,\d{3} \| 100% \|$", card, re.MULTILINE)
    captured = re.search(r"features of ([\d,]+) tokens are there since the text was written", told)
    read = re.search(r"samples, ([\d,]+) tokens, ", told)
    assert captured is not None and read is not None and captured[1] == read[1]
    assert "target's forward" not in told
    before = (work / "text.jsonl").read_bytes()
    assert before.count(b"\n") > 20

    run(epochs=2.0)  # the text is there: no engine
    assert (work / "text.jsonl").read_bytes() == before
    assert "tokens are there already" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="seed=4"):
        run(seed=4)
    for name, value, earlier in (
        ("glimpse_layers", "0", r"\(0,\): .*glimpse_layers=\(0, 1, 2\)"),
        ("glimpse_hidden", False, "False: .*glimpse_hidden=True"),
        ("copy_hint", False, "False: .*copy_hint=True"),
        ("draft_vocab_size", 32, "32: .*draft_vocab_size=64"),
    ):  # before more text is written
        with pytest.raises(ConfigError, match=f"^{name}={earlier}; delete it"):
            run(tokens="30k", **{name: value})


def test_text_of_another_form_has_its_features_by_a_forward(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def other(settings: ModelSettings, report: Report) -> str:
        return "bfloat16"

    monkeypatch.setattr(pipeline, "written_form", other)
    run(works=True)
    told = capsys.readouterr().err.replace("\n", " ")
    assert "text is written with bfloat16, so that its features need a forward" in told
    assert "are there since the text was written" not in told
    assert "target's forward" in told
    assert not (tmp_path / "out.work" / "recorded").exists()


def test_a_draft_goes_on_from_another_one(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(tokens="0", text=[some_text(tmp_path)], copy_hint=False, out=tmp_path / "first")
    begun = {"tokens": "0", "from_draft": tmp_path / "first", "draft_vocab_size": None}
    other = tmp_path / "other.jsonl"
    lines = [json.dumps({"text_ids": [99 + i * j % 9 for j in range(200)]}) for i in range(60)]
    other.write_text("\n".join(lines))
    with pytest.raises(ConfigError, match=r"draft_vocab_size=100: .*first has 64, which stays"):
        run(**begun | {"text": [other], "draft_vocab_size": 100})
    with pytest.raises(CheckpointError, match=r"nowhere.config\.json"):
        run(**begun | {"text": [other], "from_draft": tmp_path / "nowhere"})
    capsys.readouterr()
    run(**begun | {"text": [other]})
    assert "will hardly ever be right" not in capsys.readouterr().err  # it has seen other text too
    first, second = (load_file(tmp_path / name / SINGLE_FILE) for name in ("first", "out"))
    assert first.keys() == second.keys()
    assert torch.equal(first[TOKEN_TABLE], second[TOKEN_TABLE])
    moved = [not torch.equal(weight, second[name]) for name, weight in first.items()]
    assert sum(moved) > len(moved) / 2
    card = (tmp_path / "out" / "card.md").read_text()
    assert "| from_draft | first |" in card
    assert "| learning_rate | 0.0005 |" in card
    with pytest.raises(ConfigError, match=r"from_draft=None: .* a run with from_draft='\w+'"):
        run(**begun | {"text": [other], "from_draft": None, "copy_hint": False})
    renamed = (tmp_path / "first").rename(tmp_path / "renamed")
    run(**begun | {"text": [other], "from_draft": renamed})  # the same run
    (renamed / SINGLE_FILE).write_bytes((tmp_path / "out" / SINGLE_FILE).read_bytes())
    with pytest.raises(ConfigError, match="from_draft"):
        run(**begun | {"text": [other], "from_draft": renamed})


def test_the_forwards_time_is_noted_on_the_way(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a kill that can't be caught leaves behind is what is on disk then."""
    noted = list[float]()

    def prepare(*arguments: Any) -> None:
        for _ in range(2):
            time.sleep(0.01)
            arguments[-1]()
            notes = json.loads((tmp_path / "out.work" / "notes.json").read_text())
            noted.append(notes["forward_seconds"])
        raise KeyboardInterrupt

    monkeypatch.setattr(work_folder, "_NOTE_SECONDS", 0.0)
    monkeypatch.setattr(pipeline, "prepare", prepare)
    for _ in range(2):
        with pytest.raises(typer.Exit):
            run(tokens="0", text=[some_text(tmp_path)])
    assert 0 < noted[0] < noted[1] < noted[2] < noted[3]


def test_device_and_precision_of_the_server_are_those_of_the_training(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = list[object]()

    def load(settings: ModelSettings, config: TrainConfig, report: Report) -> None:
        found.extend((config.precision, settings.device, settings.dtype, settings.quantization))
        raise KeyboardInterrupt

    monkeypatch.setattr(pipeline, "load_for_training", load)
    monkeypatch.setenv("GLIDECAPE_DEVICE", "cpu")
    monkeypatch.setenv("GLIDECAPE_DTYPE", "bfloat16")
    monkeypatch.setenv("GLIDECAPE_QUANTIZATION", "none")
    with pytest.raises(typer.Exit):
        run(tokens="0", text=[some_text(tmp_path)])
    assert found == ["bfloat16", "cpu", "bfloat16", "none"]


def test_a_plan_with_a_time(
    run: Run,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # As if the target's forward took no time: what is planned follows from the text's seconds.
    monkeypatch.setattr(time_plan, "_LEAST_SECONDS", 0.0)
    monkeypatch.setattr(time_plan, "_forward_rate", lambda *_: 1e9)
    run(works=True, tokens="20M", minutes=0.25, epochs=None)
    told = capsys.readouterr().err
    assert "as many as 0:06 allow, of 0:15 in all" in told
    assert "of training" in told
    assert (tmp_path / "out" / "model.safetensors").exists()
    notes = json.loads((tmp_path / "out.work" / "notes.json").read_text())
    assert notes["text_seconds"] > 5
    assert 0 < notes["training_seconds"] <= 15 - notes["text_seconds"]

    run(tokens="20M", minutes=0.25, epochs=None)  # all time is used up: no engine, the same plan
    again = json.loads((tmp_path / "out.work" / "notes.json").read_text())
    assert again.pop("forward_seconds") > notes.pop("forward_seconds")  # it loads the target
    assert again == notes
    assert "used up by an earlier run" in capsys.readouterr().err


def test_text_that_is_given_is_counted(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(tokens="3k", text=[some_text(tmp_path)])  # 20 times 198 are learnt: nothing is written
    assert "3,960 tokens of text given, 0 tokens to be written" in capsys.readouterr().err
    assert (tmp_path / "out" / "config.json").exists()


def test_ctrl_c_says_how_to_go_on(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def interrupted(*arguments: object) -> Progress:
        raise KeyboardInterrupt

    monkeypatch.setattr(stage, "generate_text", interrupted)
    with pytest.raises(typer.Exit) as stopped:
        run(works=True)
    assert stopped.value.exit_code == 130
    told = capsys.readouterr().err.replace("\n", "")
    assert f"the same command goes on from {tmp_path / 'out.work'}" in told
