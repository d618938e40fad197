"""Whose draft an out folder holds."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from server.errors import CheckpointError, ConfigError
from weights.train.out_folder import check_out, is_own_draft, note_draft
from weights.train.work_folder import WorkFolder

DRAFTS = [{"a": torch.full((2, 3), i, dtype=torch.bfloat16)} for i in range(3)]


def write(out: Path, draft: dict[str, torch.Tensor]) -> None:
    out.mkdir(exist_ok=True)
    save_file(draft, out / "model.safetensors")
    (out / "config.json").write_text("{}")


@pytest.fixture
def work(tmp_path: Path) -> Path:
    with WorkFolder(tmp_path / "work", {"seed": 1}):
        return tmp_path / "work"


def test_a_folder_without_a_draft(tmp_path: Path, work: Path) -> None:
    out, no_work = tmp_path / "out", tmp_path / "none"
    check_out(out, no_work)
    out.mkdir()
    check_out(out, no_work)
    (out / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match=r"out=.*is not empty"):
        check_out(out, no_work)
    check_out(out, work)
    with pytest.raises(ConfigError, match=r"out=.*is a file"):
        check_out(out / "notes.txt", work)


def test_the_draft_of_another_run(tmp_path: Path, work: Path) -> None:
    """That the folder is one of a run is not enough: it has to be of the run that made it."""
    mine, other = tmp_path / "mine", tmp_path / "other"
    note_draft(work, DRAFTS[0])
    write(mine, DRAFTS[0])
    check_out(mine, work)
    write(other, DRAFTS[1])
    with pytest.raises(ConfigError, match=r"out=.*holds another draft"):
        check_out(other, work)
    (mine / "config.json").unlink()  # as a kill leaves it
    check_out(mine, work)
    (other / "config.json").unlink()
    with pytest.raises(ConfigError, match=r"out=.*holds another draft"):
        check_out(other, work)
    (mine / "model.safetensors").write_bytes(b"broken")
    assert not is_own_draft(mine, work)


def test_a_kill_before_the_next_draft_is_written(tmp_path: Path, work: Path) -> None:
    out = tmp_path / "out"
    note_draft(work, DRAFTS[0])
    write(out, DRAFTS[0])
    for _ in range(3):  # killed each time
        note_draft(work, DRAFTS[1])
    assert is_own_draft(out, work)
    write(out, DRAFTS[1])
    assert is_own_draft(out, work)
    note_draft(work, DRAFTS[2])
    write(out, DRAFTS[0])
    assert not is_own_draft(out, work)


def test_a_work_folder_without_a_list(tmp_path: Path, work: Path) -> None:
    """The folder is of a run that has not trained yet, or of an older version."""
    write(tmp_path / "out", DRAFTS[0])
    assert not is_own_draft(tmp_path / "out", work)
    (work / "checkpoint.pt").write_bytes(b"")
    assert is_own_draft(tmp_path / "out", work)


def test_a_broken_list(tmp_path: Path, work: Path) -> None:
    write(tmp_path / "out", DRAFTS[0])
    (work / "drafts.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"drafts\.json: is no list"):
        is_own_draft(tmp_path / "out", work)
