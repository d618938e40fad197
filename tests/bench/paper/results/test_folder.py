"""The results folder: one writer, whole files, nothing overwritten."""

from pathlib import Path

import pytest

from bench.paper.results.folder import ResultsFolder, write_whole
from bench.paper.results.journal import round_key
from server.errors import CheckpointError, ConfigError
from tests.bench.paper.made import plain, result


def test_one_evaluation_at_a_time(tmp_path: Path) -> None:
    with ResultsFolder(tmp_path):
        with pytest.raises(ConfigError, match=r"out=.*another evaluation is writing"):
            ResultsFolder(tmp_path)
    with ResultsFolder(tmp_path):
        pass


def test_a_file_that_cannot_be_written_whole_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "eval.json"
    write_whole(path, "before")

    def full(self: Path, text: str, encoding: str) -> None:
        self.write_bytes(text.encode()[:3])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(CheckpointError, match=r"eval\.json: .*No space left"):
        write_whole(path, "afterwards")
    assert path.read_text() == "before"


def test_results_of_an_older_version_are_kept(tmp_path: Path) -> None:
    (tmp_path / "eval.json").write_text("{}")
    lines = list[str]()
    with ResultsFolder(tmp_path) as folder:
        journal = folder.open_journal({"draft": "a"}, lines.append)
        assert journal.rounds == {}
        journal.close()
    assert (tmp_path / "earlier-1" / "eval.json").read_text() == "{}"
    assert "kept no rounds" in lines[0]


def test_results_are_set_aside_again_and_again(tmp_path: Path) -> None:
    lines = list[str]()
    with ResultsFolder(tmp_path) as folder:
        for draft in ("a", "b", "c"):
            journal = folder.open_journal({"draft": draft}, lines.append)
            journal.begin({"draft": draft}, "now")
            journal.add(round_key("x", draft, (1,)), result(draft, plain=plain(3, 1.0)))
            journal.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "earlier-1", "earlier-2", "eval.jsonl",
    ]  # fmt: skip
    assert "(draft: b, now c)" in lines[-1]


def test_an_empty_file_is_no_result(tmp_path: Path) -> None:
    (tmp_path / "eval.json").touch()
    lines = list[str]()
    with ResultsFolder(tmp_path) as folder:
        folder.open_journal({}, lines.append).close()
    assert lines == []
