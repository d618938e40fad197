"""Whose work folder it is, and what it may be."""

import shutil
from pathlib import Path

import pytest

from server.errors import CheckpointError, ConfigError
from weights.train.work_folder import WorkFolder, check_disk

IDENTITY = {"target": "tiny", "prompts": None, "seed": 3}


def test_figures_are_kept(tmp_path: Path) -> None:
    with WorkFolder(tmp_path / "w", IDENTITY) as work:
        assert work.recall("text_seconds") is None
        work.note(text_seconds=1.5, planned_tokens=7)
        work.note(text_seconds=2.5)
    with WorkFolder(tmp_path / "w", IDENTITY) as work:
        assert (work.recall("text_seconds"), work.recall("planned_tokens")) == (2.5, 7)


def test_broken_figures_are_forgotten(tmp_path: Path) -> None:
    (tmp_path / "notes.json").write_text('{"text_seconds": [')
    with WorkFolder(tmp_path, IDENTITY) as work:
        assert work.recall("text_seconds") is None


def test_the_work_of_another_run_is_refused(tmp_path: Path) -> None:
    with WorkFolder(tmp_path, IDENTITY):
        pass
    with pytest.raises(ConfigError, match=r"seed=4: .* of a run with seed=3"):
        WorkFolder(tmp_path, IDENTITY | {"seed": 4})
    with WorkFolder(tmp_path, IDENTITY):  # the refusal has let go of the folder
        pass


def test_one_run_at_a_time(tmp_path: Path) -> None:
    with (
        WorkFolder(tmp_path, IDENTITY),
        pytest.raises(ConfigError, match="another run is using it"),
    ):
        WorkFolder(tmp_path, IDENTITY)
    with WorkFolder(tmp_path, IDENTITY):
        pass


def test_a_folder_that_can_not_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="Not a directory"):
        WorkFolder(tmp_path / "file" / "w", IDENTITY)


def test_too_small_a_disk(tmp_path: Path) -> None:
    free = shutil.disk_usage(tmp_path).free
    check_disk(tmp_path / "not" / "yet", free // 2)
    with pytest.raises(ConfigError, match="MiB are needed, the disk has"):
        check_disk(tmp_path / "not" / "yet", free * 2)
