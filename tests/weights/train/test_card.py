"""`card.md`: what a draft was made of, and the section an evaluation puts into it."""

import json
from pathlib import Path

import pytest
from rich.console import Console

from server.errors import CheckpointError
from tests.weights.train.tiny import STOP_ID, no_prompt, tiny_config, tiny_target, write_text
from weights.train.card import TextCounts, count_text, write_card, write_measured
from weights.train.train import Trained, train


def test_text_is_counted(tmp_path: Path) -> None:
    entries = [
        {"source": "self-3", "prompt_ids": [1], "response_ids": [2, 3]},
        {"source": "gsm8k-1", "prompt_ids": [1], "response_ids": [2, 3, 4]},
        {"prompt": "x", "response_ids": [2]},
        {"text_ids": [1, 2, 3, 4]},
    ]
    path = tmp_path / "t.jsonl"
    path.write_text("\n".join(map(json.dumps, entries)))
    assert count_text(path) == TextCounts("t.jsonl", 4, 10, 1)


def test_the_card_of_a_trained_draft(tmp_path: Path) -> None:
    target = tiny_target()
    text = write_text(tmp_path / "text.jsonl", target, 200)
    config = tiny_config(tmp_path, text, steps=2)
    trained = train(config, target, no_prompt, {STOP_ID}, Console(quiet=True))
    found = trained.validation
    assert found is not None
    card = write_card(config, "tiny", trained, "glidecape train --out draft").read_text()
    assert card.startswith("# draft\n\nA GliDe draft for tiny.\n\n## Data\n")
    num_training, num_held_out = len(trained.data.training), len(trained.data.held_out)
    random = [at.sample for at in trained.data.training if at.sample.is_random]
    num_copied, num_samples = sum(s.num_labels for s in random), num_training - len(random)
    assert num_samples + num_held_out == 200
    for line in (
        "| text.jsonl | 200 | 4,800 | 0% |",
        f"Learnt from {num_training} samples with {num_samples * 24 + num_copied:,} tokens to "
        f"predict, {num_copied} of them random ones said twice; {num_held_out} samples were held "
        "out.",
        "| glimpse_layers | 0, 2 |",
        "| draft_vocab_size | 48 |",
        "| learning_rate | 0.005 |",
        f"| {found.loss:.3f} | "
        + " | ".join(f"{100 * share:.1f} %" for share in found.agreement)
        + f" | {found.chain_tokens:.2f} |",
        "| loss | agreement, delay 1 | agreement, delay 2 | agreement, delay 3 | "
        "agreement, delay 4 | tokens a step, chain of 4 |",
        "    glidecape train --out draft",
    ):
        assert f"\n{line}\n" in card
    assert "minutes |" not in card
    unknown = Trained(None, trained.state, trained.data)
    assert "Nothing was held out." in write_card(config, "tiny", unknown, "x").read_text()


def test_a_measurement_replaces_the_older_one(tmp_path: Path) -> None:
    (tmp_path / "card.md").write_text("# d\n\n## Data\n\nmuch\n")
    write_measured(tmp_path, "# first\n\n## Table\n\n| a |\n")
    path = write_measured(tmp_path, "# second\n\n## Table\n\n| # |\n")
    assert path.read_text() == (
        "# d\n\n## Data\n\nmuch\n\n## Measured\n\n### second\n\n#### Table\n\n| # |\n"
    )


def test_a_draft_without_a_card_gets_one(tmp_path: Path) -> None:
    (folder := tmp_path / "draft").mkdir()
    assert write_measured(folder, "# x").read_text() == "# draft\n\n## Measured\n\n### x\n"


def test_a_card_that_can_not_be_read_or_written(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"card\.md: can't be written"):
        write_measured(tmp_path / "none", "# x")
    (tmp_path / "card.md").write_bytes(b"\xff")
    with pytest.raises(CheckpointError, match=r"card\.md: .*utf-8"):
        write_measured(tmp_path, "# x")
