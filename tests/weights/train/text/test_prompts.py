"""Prompts a user brings."""

import gzip
import json
from pathlib import Path

import pytest

from server.errors import CheckpointError
from server.text.chat_template import ChatTemplate
from tests.doubles import BOS_ID, byte_tokenizer, ids
from tests.weights.train.writers import TurnTemplate
from weights.train.text.prompts import Prompt, read_prompts

SYSTEM = "[system]Be kind.</s>"


def write(path: Path, *lines: object) -> Path:
    texts = (line if isinstance(line, str) else json.dumps(line) for line in lines)
    data = "".join(f"{text}\n" for text in texts).encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


@pytest.mark.parametrize("name", ["p.jsonl", "p.jsonl.gz"])
def test_both_forms_of_a_prompt(name: str, tmp_path: Path) -> None:
    path = write(tmp_path / name, {"id": 7, "messages": [user("hi")]}, "", {"prompt": "ho"})
    assert read_prompts(path, TurnTemplate()) == [
        Prompt("7", f"{SYSTEM}[user]hi</s>[assistant]", is_chat=True),
        Prompt(f"{name}:3", f"{SYSTEM}[user]ho</s>[assistant]", is_chat=True),
    ]


def test_a_chat_that_is_answered_already_is_asked_again(tmp_path: Path) -> None:
    answer = {"role": "assistant", "content": "yes"}
    path = write(tmp_path / "p.jsonl", {"messages": [user("a"), answer, user("b"), answer]})
    (prompt,) = read_prompts(path, TurnTemplate())
    assert prompt.text == f"{SYSTEM}[user]a</s>[assistant]yes</s>[user]b</s>[assistant]"


def test_without_a_template_a_prompt_is_text_to_be_continued(tmp_path: Path) -> None:
    path = write(tmp_path / "p.jsonl", {"prompt": "Once upon"})
    (prompt,) = read_prompts(path, None)
    assert prompt == Prompt("p.jsonl:1", "Once upon", is_chat=False)
    assert prompt.encode(byte_tokenizer()) in ((BOS_ID, *ids("Once upon")), (*ids("Once upon"),))


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"prompt": "a"', "broken JSON"),
        ("[1]", "expected an object, found list"),
        ('{"prompt": "\\ud800"}', "prompt: is not valid Unicode"),
        ({"text": "a"}, "expected either messages or prompt"),
        ({"prompt": "a", "messages": [user("a")]}, "expected either messages or prompt"),
        ({"prompt": "  "}, "prompt: expected a text"),
        ({"prompt": 3}, "prompt: expected a text"),
        ({"messages": "hi"}, "messages: expected a list"),
        ({"messages": []}, "there is no user turn"),
        ({"messages": ["hi"]}, "expected objects"),
        ({"messages": [{"role": "user"}]}, "messages: content: expected a text"),
        ({"messages": [{"role": "assistant", "content": "a"}]}, "there is no user turn"),
    ],
)
def test_a_broken_line_is_named_by_its_number(line: object, reason: str, tmp_path: Path) -> None:
    path = write(tmp_path / "p.jsonl", {"prompt": "fine"}, "", line, {"prompt": "fine"})
    with pytest.raises(CheckpointError, match=f"p.jsonl: line 3: .*{reason}"):
        read_prompts(path, TurnTemplate())


def test_bytes_that_are_no_utf8(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_bytes(b'{"prompt": "a"}\n{"prompt": "\xff"}\n')
    with pytest.raises(CheckpointError, match="line 2: broken JSON"):
        read_prompts(path, TurnTemplate())


def test_a_template_that_refuses_a_line(tmp_path: Path) -> None:
    from tests.text.test_chat_template import TEMPLATE, chat_template

    late = {"messages": [user("a"), {"role": "system", "content": "b"}, user("c")]}
    path = write(tmp_path / "p.jsonl", {"prompt": "a"}, late)
    with pytest.raises(CheckpointError, match=r"line 2: .*system must come first"):
        read_prompts(path, chat_template(TEMPLATE))


@pytest.mark.parametrize(
    ("template", "content", "reason"),
    [
        (TurnTemplate(), b"", "holds no prompts"),
        (None, b'{"messages": [{"role": "user", "content": "a"}]}', "line 1: .*chat template"),
    ],
)
def test_nothing_to_answer(
    template: ChatTemplate | None, content: bytes, reason: str, tmp_path: Path
) -> None:
    (tmp_path / "p.jsonl").write_bytes(content)
    with pytest.raises(CheckpointError, match=reason):
        read_prompts(tmp_path / "p.jsonl", template)


def test_files_that_can_not_be_read(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="No such file"):
        read_prompts(tmp_path / "none.jsonl", None)
    packed = write(tmp_path / "p.jsonl.gz", *({"prompt": str(i)} for i in range(50)))
    packed.write_bytes(packed.read_bytes()[:-20])
    with pytest.raises(CheckpointError, match=r"p\.jsonl\.gz"):
        read_prompts(packed, None)
    (tmp_path / "plain.gz").write_text('{"prompt": "a"}')
    with pytest.raises(CheckpointError, match="Not a gzipped file"):
        read_prompts(tmp_path / "plain.gz", None)
