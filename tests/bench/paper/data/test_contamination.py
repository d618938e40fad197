"""Evaluation prompts in training text, in each form that training text has."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from bench.paper.data.contamination import Contamination, find_contamination
from bench.paper.data.sets import DataSet, EncodedPrompt
from server.errors import CheckpointError
from tests.doubles import byte_tokenizer, ids

SETS = {
    "one": DataSet(
        (
            EncodedPrompt("a", tuple(ids("user:What is 2+2?\n")), ("What is 2+2?",)),
            EncodedPrompt("b", tuple(ids("user:Groß\n")), ("Groß",)),
        ),
        9,
    ),
    "two": DataSet((EncodedPrompt("c", tuple(ids("user:Hi\nuser:Go on")), ("Hi", "Go on")),), 1),
}


def find(tmp_path: Path, *lines: object) -> Contamination:
    path = tmp_path / "text.jsonl.gz"
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.writelines(f"{json.dumps(line)}\n" for line in lines)
    return find_contamination(SETS, [path], byte_tokenizer())


def chat(*turns: str) -> dict[str, Any]:
    messages = list[dict[str, str]]()
    for turn in turns:
        messages += [{"role": "user", "content": turn}, {"role": "assistant", "content": "Hm."}]
    return {"messages": [{"role": "system", "content": "Be kind."}, *messages]}


@pytest.mark.parametrize(
    "line",
    [
        {"prompt": "what  IS\n2+2? ", "response_ids": [1]},
        {"prompt_ids": ids("user:What is 2+2?\n"), "response_ids": [1]},
        chat("What is 2+2?"),
        chat("Hello", "What is 2+2?", "And 3+3?"),
    ],
    ids=["prompt", "prompt_ids", "messages", "later turn"],
)
def test_the_same_prompt_in_every_form(tmp_path: Path, line: object) -> None:
    found = find(tmp_path, {"prompt": "other"}, line)
    assert found.found == {"one": ("a",), "two": ()}
    assert (found.num_found, found.num_prompts, found.num_without_prompt) == (1, 2, 0)


def test_case_is_folded_not_lowered(tmp_path: Path) -> None:
    assert find(tmp_path, {"prompt": "GROSS"}).found["one"] == ("b",)


def test_a_chat_occurs_as_a_whole(tmp_path: Path) -> None:
    assert find(tmp_path, chat("Go on")).num_found == 0
    assert find(tmp_path, chat("Hi", "Go on", "Bye")).found["two"] == ("c",)


def test_a_part_of_a_prompt_is_another(tmp_path: Path) -> None:
    assert find(tmp_path, {"prompt": "So, what is 2+2?"}).num_found == 0


def test_lines_without_a_prompt_are_counted(tmp_path: Path) -> None:
    found = find(tmp_path, {"text_ids": ids("user:What is 2+2?\n")}, {"prompt": None})
    assert (found.num_found, found.num_prompts, found.num_without_prompt) == (0, 0, 2)


@pytest.mark.parametrize(
    "line", [{"text": "x"}, {"prompt": 3}, {"prompt_ids": ["x"]}, {"messages": "x"}]
)
def test_what_is_no_training_text_is_named(tmp_path: Path, line: object) -> None:
    with pytest.raises(CheckpointError, match=r"text\.jsonl\.gz: line 2: "):
        find(tmp_path, {"prompt": "fine"}, line)
