"""`glidecape eval` from files to files, on the tiny random model with a random GliDe."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench.paper import run as runner
from bench.paper.measure.session import GREEDY, Session
from bench.paper.report.tables import MEAN
from bench.paper.run import EvalOptions, run_eval
from server.config import ModelSettings, load_settings
from server.engine.types import SamplingDefaults
from server.errors import CheckpointError, ConfigError, EngineDeadError
from server.loading.model import LoadedModel
from tests.bench.paper.tiny_loaded import tiny_loaded
from tests.loading.test_draft import write_draft

METHODS = ["plain", "ngram", "chain", "beam4", "beam8", "cape", "auto"]


@pytest.fixture(autouse=True)
def no_files_of_a_model(monkeypatch: pytest.MonkeyPatch) -> None:
    def build(settings: ModelSettings, report: object, observe: Callable[..., None]) -> LoadedModel:
        assert settings.prefix_caching == "off"
        return tiny_loaded(observe)

    monkeypatch.setattr(runner, "build_model", build)


def settings(draft: str = "/drafts/random") -> ModelSettings:
    return load_settings(ModelSettings, draft=draft)


def options(tmp_path: Path, *files: Path, **given: Any) -> EvalOptions:
    values: dict[str, Any] = {
        "files": files, "draft_model": None, "limit": None, "new_tokens": 24,
        "out": tmp_path / "out", "methods": ",".join(METHODS),
    }  # fmt: skip
    return EvalOptions(**values | given)


def write(path: Path, *lines: object) -> Path:
    texts = (line if isinstance(line, str) else json.dumps(line) for line in lines)
    path.write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")
    return path


def two_sets(tmp_path: Path) -> tuple[Path, Path]:
    chats = [
        {"id": f"g{i}", "messages": [{"role": "user", "content": f"question {i}"}]}
        for i in range(3)
    ]
    prompts = [{"prompt": f"say {i} words"} for i in range(4)]
    return (
        write(tmp_path / "gsm8k.jsonl", *chats),
        write(tmp_path / "mine.jsonl", "", *prompts),
    )


def test_from_files_to_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_eval(settings(), options(tmp_path, *two_sets(tmp_path), limit=3))
    stored = json.loads((tmp_path / "out" / "eval.json").read_text())
    assert stored["about"]["draft"] == "random"
    assert stored["about"]["dtype"] == "float32"
    assert list(stored["sets"]) == ["gsm8k", "mine"]
    assert [p["id"] for p in stored["prompts"]["mine"]] == [f"mine.jsonl:{i}" for i in (2, 3, 4)]
    for figures in (*stored["sets"].values(), stored["mean"]):
        assert list(figures["methods"]) == METHODS
        for method in figures["methods"].values():
            assert method["num_differing"] == 0
            assert method["tokens_per_second"] > 0
    chain = stored["sets"]["gsm8k"]["methods"]["chain"]
    assert 0 <= chain["chain"]["acceptance"][0] < 1
    assert chain["chain"]["relative_cost"][0] > 0
    text = (tmp_path / "out" / "eval.md").read_text()
    assert MEAN in text
    assert capsys.readouterr().out == f"{text}\n"


def test_drawn_answers_differ_from_none_of_plain_decoding(tmp_path: Path) -> None:
    """The report says how they were drawn, and another way is another measurement."""
    drawn = SamplingDefaults(temperature=0.7, top_p=0.9)
    file = two_sets(tmp_path)[0]
    for sampling, said in ((drawn, "temperature 0.7, top_p 0.9"), (GREEDY, "greedy")):
        run_eval(settings(), options(tmp_path, file, limit=2, sampling=sampling))
        stored = json.loads((tmp_path / "out" / "eval.json").read_text())
        assert stored["about"]["sampling"] == said
        assert f", {said}, at most 24" in (tmp_path / "out" / "eval.md").read_text()
        for method in stored["sets"]["gsm8k"]["methods"].values():
            assert method["num_differing"] == 0


def test_the_report_goes_into_the_card(tmp_path: Path) -> None:
    (draft := tmp_path / "random").mkdir()
    (draft / "card.md").write_text("# random\n\n## Data\n")
    files = two_sets(tmp_path)[:1]
    given = options(tmp_path, *files, limit=1, methods="chain", card=True)
    run_eval(settings(str(draft)), given)
    card = (draft / "card.md").read_text()
    assert card.startswith("# random\n\n## Data\n\n## Measured\n\n### random on tiny\n")
    (row,) = (
        line for line in (tmp_path / "out" / "eval.md").read_text().splitlines()
        if line.startswith("| gsm8k | plain")
    )  # fmt: skip
    assert f"\n{row}\n" in card


def test_no_folder_for_the_card(tmp_path: Path) -> None:
    given = options(tmp_path, *two_sets(tmp_path), card=True)
    with pytest.raises(ConfigError, match="card='/drafts/random'"):
        run_eval(settings(), given)


def test_recorded_rounds_give_the_figures(tmp_path: Path) -> None:
    """From the raw prompts alone, by another way than the code's."""
    files = two_sets(tmp_path)[:1]
    run_eval(settings(), options(tmp_path, *files))
    stored = json.loads((tmp_path / "out" / "eval.json").read_text())
    assert stored["mean"] is None
    answers = [prompt["answers"] for prompt in stored["prompts"]["gsm8k"]]
    plain = sum(answer["plain"]["decode_seconds"] for answer in answers)
    for name, method in stored["sets"]["gsm8k"]["methods"].items():
        seconds = sum(answer[name]["decode_seconds"] for answer in answers)
        assert method["speedup"][0] == pytest.approx(plain / seconds)
        tokens = sum(answer[name]["num_tokens"] - 1 for answer in answers)
        steps = sum(answer[name]["num_steps"] for answer in answers)
        assert method["tokens_per_step"][0] == pytest.approx(tokens / steps)


def test_what_was_measured_before_an_interruption_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measure = Session.compare

    async def interrupted(self: Session, *arguments: Any) -> Any:
        if arguments[-1] == 2:  # the third prompt's turn
            raise EngineDeadError("enough")
        return await measure(self, *arguments)

    monkeypatch.setattr(Session, "compare", interrupted)
    with pytest.raises(EngineDeadError):
        run_eval(settings(), options(tmp_path, *two_sets(tmp_path)))
    stored = json.loads((tmp_path / "out" / "eval.json").read_text())
    assert [prompt["id"] for prompt in stored["prompts"]["gsm8k"]] == ["g0", "g1"]
    assert stored["sets"]["gsm8k"]["num_prompts"] == 2


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """(turn, tokens of the prompt) of each round that is really measured, warm-ups left out."""
    compare, seen = Session.compare, list[tuple[int, int]]()

    async def noted(
        self: Session, methods: Any, prompt: tuple[int, ...], new_tokens: int, turn: int
    ) -> Any:
        if new_tokens != runner._WARM_UP_TOKENS:  # pyright: ignore[reportPrivateUsage]
            seen.append((turn, len(prompt)))
        return await compare(self, methods, prompt, new_tokens, turn)

    monkeypatch.setattr(Session, "compare", noted)
    return seen


def test_the_same_command_goes_on_with_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, measured: list[tuple[int, int]]
) -> None:
    """Killed before anything but the journal was written, in the middle of a line."""
    given = options(tmp_path, *two_sets(tmp_path), methods="chain,cape")
    run_eval(settings(), given)
    out = tmp_path / "out"
    whole = json.loads((out / "eval.json").read_text())
    lines = (out / "eval.jsonl").read_text().splitlines(keepends=True)
    (out / "eval.jsonl").write_text("".join(lines[:6]) + lines[6][:50])  # 2 heads, 4 rounds
    (out / "eval.json").unlink()
    (out / "eval.md").unlink()
    measured.clear()
    run_eval(settings(), given)
    assert [turn for turn, _ in measured] == [4, 5, 6]
    stored = json.loads((out / "eval.json").read_text())
    assert stored["prompts"]["gsm8k"] == whole["prompts"]["gsm8k"]
    assert stored["prompts"]["mine"][0] == whole["prompts"]["mine"][0]
    assert [len(prompts) for prompts in stored["prompts"].values()] == [3, 4]
    assert stored["about"]["started"] == whole["about"]["started"]
    assert len(stored["about"]["resumed"]) == 1
    assert "Measured in 2 runs." in (out / "eval.md").read_text()


def test_a_finished_evaluation_is_not_measured_again(
    tmp_path: Path, measured: list[tuple[int, int]]
) -> None:
    given = options(tmp_path, *two_sets(tmp_path), methods="chain")
    run_eval(settings(), given)
    before = (tmp_path / "out" / "eval.md").read_text()
    measured.clear()
    run_eval(settings(), given)
    assert measured == []
    assert (tmp_path / "out" / "eval.md").read_text() == before


def test_more_prompts_later(tmp_path: Path, measured: list[tuple[int, int]]) -> None:
    files = two_sets(tmp_path)
    run_eval(settings(), options(tmp_path, files[1], methods="chain", limit=2))
    assert len(measured) == 2
    run_eval(settings(), options(tmp_path, *files, methods="chain"))
    assert len(measured) == 7
    stored = json.loads((tmp_path / "out" / "eval.json").read_text())
    assert [p["id"] for p in stored["prompts"]["mine"]] == [f"mine.jsonl:{i}" for i in range(2, 6)]


def test_other_settings_start_afresh_and_keep_what_was_there(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], measured: list[tuple[int, int]]
) -> None:
    files, out = two_sets(tmp_path)[:1], tmp_path / "out"
    run_eval(settings(), options(tmp_path, *files, methods="chain"))
    first = (out / "eval.json").read_text()
    run_eval(settings(), options(tmp_path, *files, methods="chain", new_tokens=8))
    assert len(measured) == 6
    assert (out / "earlier-1" / "eval.json").read_text() == first
    assert json.loads((out / "eval.json").read_text())["about"]["new_tokens"] == 8
    assert "results of another evaluation (tokens: 24, now 8): kept in" in capfd.readouterr().err


def test_a_draft_that_was_trained_on_is_another(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (draft := tmp_path / "random").mkdir()
    (draft / "model.safetensors").write_bytes(b"weights")
    given = options(tmp_path, *two_sets(tmp_path)[:1], methods="chain", limit=1)
    run_eval(settings(str(draft)), given)
    (draft / "model.safetensors").write_bytes(b"WEIGHTS")
    run_eval(settings(str(draft)), given)
    assert "another evaluation (draft: random " in capfd.readouterr().err
    assert (tmp_path / "out" / "earlier-1" / "eval.jsonl").exists()


def test_what_fails_at_once_leaves_earlier_results_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files, out = two_sets(tmp_path), tmp_path / "out"
    run_eval(settings(), options(tmp_path, *files, methods="chain", limit=1))
    before = (out / "eval.json").read_text(), (out / "eval.md").read_text()

    async def fails(*_: Any) -> None:
        raise EngineDeadError("in the warm-up")

    monkeypatch.setattr(Session, "compare", fails)
    with pytest.raises(EngineDeadError):  # other settings: the earlier ones are set aside
        run_eval(settings(), options(tmp_path, *files, methods="chain", limit=1, new_tokens=8))
    assert not (out / "eval.json").exists()
    for _ in range(2):  # the second time nothing is there to be kept
        with pytest.raises(EngineDeadError):
            run_eval(settings(), options(tmp_path, *files, methods="cape"))
    kept = out / "earlier-1"
    assert ((kept / "eval.json").read_text(), (kept / "eval.md").read_text()) == before
    assert not (out / "earlier-2").exists()


def test_a_prompt_in_the_training_text(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    text = write(tmp_path / "text.jsonl", {"prompt": " Question\t1", "response_ids": [1]})
    files = two_sets(tmp_path)
    run_eval(settings(), options(tmp_path, *files, methods="chain", limit=3, trained_on=(text,)))
    stored = json.loads((tmp_path / "out" / "eval.json").read_text())
    assert stored["contamination"]["found"] == {"gsm8k": ["g1"], "mine": []}
    shown = capfd.readouterr()
    assert "WARNING: 1 of 6 prompts occur in the training text: g1" in shown.err
    assert "**1 of 6 prompts occur in the training text**" in shown.out


def test_a_draft_model_joins_as_a_baseline(tmp_path: Path) -> None:
    small = write_draft(tmp_path / "small", vocab_size=61)
    files = two_sets(tmp_path)[:1]
    given = options(tmp_path, *files, draft_model=small, methods=None)
    run_eval(settings(), given)
    stored = json.loads((tmp_path / "out" / "eval.json").read_text())
    found = stored["sets"]["gsm8k"]["methods"]
    assert list(found) == ["plain", "draft_model", "chain", "beam4", "beam8", "cape", "auto"]
    assert found["draft_model"]["num_differing"] == 0
    assert found["draft_model"]["chain"]["relative_cost"][0] > 0


def test_what_is_no_draft_model_is_refused(tmp_path: Path) -> None:
    files = two_sets(tmp_path)[:1]
    (tmp_path / "glide").mkdir()
    (tmp_path / "glide" / "config.json").write_text('{"model_type": "glide"}', encoding="utf-8")
    for name, part in ((str(tmp_path / "glide"), "what --draft takes"), ("ngram", "small")):
        given = options(tmp_path, *files, draft_model=name, methods="draft_model")
        with pytest.raises(ConfigError, match=f"draft_model=.*{part}"):
            run_eval(settings(), given)


def test_a_broken_line_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "broken.jsonl", {"prompt": "fine"}, '{"prompt": ')
    with pytest.raises(CheckpointError, match=r"broken\.jsonl\W+line 2: broken JSON"):
        run_eval(settings(), options(tmp_path, path, limit=1))
    path = write(tmp_path / "neither.jsonl", {"prompt": "fine"}, {"id": "x"})
    with pytest.raises(CheckpointError, match=r"neither\.jsonl\W+line 2: .*messages or prompt"):
        run_eval(settings(), options(tmp_path, path))


def test_a_prompt_without_room_for_its_answer(tmp_path: Path) -> None:
    path = write(tmp_path / "long.jsonl", {"id": "big", "prompt": "x" * 240})
    with pytest.raises(ConfigError, match=r"long\.jsonl.*'big' has 2\d\d tokens and leaves"):
        run_eval(settings(), options(tmp_path, path))


def test_files_are_checked_before_anything_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "build_model", None)
    with pytest.raises(ConfigError, match="at least one file"):
        run_eval(settings(), options(tmp_path))
    with pytest.raises(ConfigError, match=r"nowhere\.jsonl.*no such file"):
        run_eval(settings(), options(tmp_path, tmp_path / "nowhere.jsonl"))
    first = write(tmp_path / "a.jsonl", {"prompt": "x"})
    (tmp_path / "b").mkdir()
    second = write(tmp_path / "b" / "a.jsonl", {"prompt": "x"})
    with pytest.raises(ConfigError, match="another data set named 'a'"):
        run_eval(settings(), options(tmp_path, first, second))
    for draft in ("none", "ngram"):
        with pytest.raises(ConfigError, match=f"draft='{draft}'.*GliDe"):
            run_eval(settings(draft), options(tmp_path, first))
    gone = tmp_path / "gone.jsonl"
    with pytest.raises(ConfigError, match=r"trained_on=.*gone\.jsonl.*no such file"):
        run_eval(settings(), options(tmp_path, first, trained_on=(gone,)))
    with pytest.raises(ConfigError, match=r"out=.*can't be written"):
        run_eval(settings(), options(tmp_path, first, out=first))
