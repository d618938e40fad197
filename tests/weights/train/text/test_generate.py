"""Stage 1 of training: what is written, in which order, and what a kill leaves behind."""

import asyncio
import json
import random
from collections import Counter
from collections.abc import AsyncGenerator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from server.engine.outputs import RequestOutput
from server.engine.types import Request
from server.errors import CheckpointError, ConfigError, GlidecapeError
from tests.doubles import EOS_ID, byte_backend, ids
from tests.text.test_chat_template import chat_template
from tests.weights.train.writers import KeyedEngine, TurnTemplate, keyed_answer, target
from weights.train.text.generate import GenerationConfig, Progress, generate_text
from weights.train.text.prompts import Prompt
from weights.train.text.target import TextTarget

MANY = 10**9
CONFIG = GenerationConfig(num_tokens=MANY, concurrency=4, seed=3)
PROMPTS = [Prompt(f"p{i}", f"question {i}", is_chat=True) for i in range(30)]


async def write(
    folder: Path,
    config: GenerationConfig = CONFIG,
    prompts: list[Prompt] = PROMPTS,
    engine: KeyedEngine | None = None,
    *,
    writes_itself: bool = False,
) -> Progress:
    writer = target(engine or KeyedEngine())
    if not writes_itself:
        writer = replace(writer, template=None)
    folder.mkdir(exist_ok=True)
    return await generate_text(writer, prompts, folder, config, lambda progress: None)


def answers(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "text.jsonl").read_text().splitlines()]


def in_order(folder: Path) -> list[dict[str, Any]]:
    return sorted(answers(folder), key=lambda a: (a["prompt_ids"], a["temperature"]))


def num_tokens(folder: Path) -> int:
    return sum(len(answer["response_ids"]) for answer in answers(folder))


async def test_without_more_prompts_each_is_answered_both_ways(tmp_path: Path) -> None:
    engine = KeyedEngine()
    progress = await write(tmp_path, engine=engine)
    found = answers(tmp_path)
    assert Counter(a["source"] for a in found) == {p.source: 2 for p in PROMPTS}
    temperatures = [a["temperature"] for a in found]
    assert temperatures.count(0) == 30
    assert all(t == 0 or 0.7 <= t <= 1 for t in temperatures)
    assert len(set(temperatures)) > 10
    # Three quarters of the first round are greedy. Of 30 by chance: 15 to 29 but once in 200.
    assert 15 <= temperatures[:30].count(0) <= 29
    assert engine.most_at_once == CONFIG.concurrency
    assert progress.num_answers == 60
    assert progress.num_tokens == num_tokens(tmp_path)


async def test_lines_hold_what_was_asked_and_said(tmp_path: Path) -> None:
    engine = KeyedEngine()
    await write(tmp_path, engine=engine)
    said = {tuple(r.prompt_token_ids): keyed_answer(r) for r in engine.requests[:30]}
    for answer in answers(tmp_path)[:20]:
        assert answer["prompt_ids"] == ids(answer["source"].replace("p", "question "))
        assert answer["finish"] == "stop"
        assert answer["response_ids"][-1] == EOS_ID
    assert said[tuple(ids("question 0"))] in [a["response_ids"] for a in answers(tmp_path)]


async def test_a_long_answer_is_cut_at_the_limit(tmp_path: Path) -> None:
    await write(tmp_path, replace(CONFIG, max_new_tokens=4))
    assert {(len(a["response_ids"]), a["finish"]) for a in answers(tmp_path)} == {(4, "length")}


async def test_an_answer_that_goes_round_in_circles_is_cut(tmp_path: Path) -> None:
    await write(tmp_path, engine=KeyedEngine(ids("abcdefgh") * 20))
    (said,) = {(tuple(a["response_ids"]), a["finish"]) for a in answers(tmp_path)}
    assert said == (tuple((ids("abcdefgh") * 20)[: 8 + 5 + 32]), "loop")


async def test_equal_prompts_are_answered_once(tmp_path: Path) -> None:
    again = [replace(prompt, source="again") for prompt in PROMPTS]
    await write(tmp_path, prompts=[*PROMPTS, *again])
    assert len(answers(tmp_path)) == 60


async def test_a_prompt_without_room_for_its_answer_is_skipped(tmp_path: Path) -> None:
    long = Prompt("long", "x" * 250, is_chat=True)
    progress = await write(tmp_path, prompts=[long, *PROMPTS])
    assert progress.num_skipped == 2
    assert len(answers(tmp_path)) == 60


async def killed(folder: Path, num_answers: int, **options: Any) -> None:
    """Runs until so many answers are there, then breaks off within a line."""

    class Dies(KeyedEngine):
        async def generate(self, request: Request) -> AsyncGenerator[RequestOutput, None]:
            async for output in super().generate(request):
                if (folder / "text.jsonl").read_bytes().count(b"\n") >= num_answers:
                    raise asyncio.CancelledError
                yield output

    with pytest.raises(asyncio.CancelledError):
        task = asyncio.ensure_future(write(folder, engine=Dies(), **options))
        while not task.done():
            await asyncio.sleep(0)
            path = folder / "text.jsonl"
            if path.exists() and path.read_bytes().count(b"\n") >= num_answers:
                task.cancel()
        await task
    with (folder / "text.jsonl").open("ab") as file:
        file.write(b'{"source":"p4","tempera')


async def test_a_killed_run_goes_on_to_what_an_unbroken_one_writes(tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    await write(whole)
    engine = KeyedEngine()
    await killed(broken, 13)
    assert len((broken / "text.jsonl").read_bytes().splitlines()) < 40
    await write(broken, engine=engine)
    assert in_order(broken) == in_order(whole)
    assert len(engine.requests) <= 60 - 13  # nothing is given twice


async def test_self_written_prompts_after_a_kill(tmp_path: Path) -> None:
    """Whoever wins a race for the same prompt: equal prompts have equal answers, and no prompt
    that was written is written again."""
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    config = replace(CONFIG, num_tokens=3000)
    await write(whole, config, [], writes_itself=True)
    await killed(broken, 13, config=config, prompts=[], writes_itself=True)
    engine = KeyedEngine()
    with (broken / "prompts.jsonl").open("ab") as file:
        file.write(b'{"index":9')
    written = [json.loads(x) for x in (broken / "prompts.jsonl").read_bytes().splitlines()[:-1]]
    await write(broken, config, [], engine, writes_itself=True)
    assert num_tokens(broken) >= 3000
    unbroken = {str(a["prompt_ids"]): a for a in answers(whole) if a["finish"] != "cut"}
    resumed = {str(a["prompt_ids"]): a for a in answers(broken) if a["finish"] != "cut"}
    both = unbroken.keys() & resumed.keys()
    assert len(both) > 60
    assert all(unbroken[key] == resumed[key] for key in both)
    asked = {r.request_id for r in engine.requests if r.request_id.endswith("-prompt")}
    assert asked.isdisjoint(f"self-{line['index']}-prompt" for line in written)


async def test_a_chat_model_writes_its_prompts(tmp_path: Path) -> None:
    engine = KeyedEngine()
    await write(tmp_path, replace(CONFIG, num_tokens=1000), [], engine, writes_itself=True)
    prompts = [json.loads(line) for line in (tmp_path / "prompts.jsonl").read_text().splitlines()]
    texts = {f"self-{line['index']}": line["prompt"] for line in prompts}
    for answer in answers(tmp_path):
        rendered = TurnTemplate().render([{"role": "user", "content": texts[answer["source"]]}])
        assert answer["prompt_ids"] == list(target(engine).tokenizer.encode(
            rendered, add_special_tokens=False
        ))  # fmt: skip
    header = target(engine).tokenizer.encode("[system]Be kind.</s>[user]", add_special_tokens=False)
    asking = [r for r in engine.requests if r.request_id.endswith("-prompt")]
    assert {r.prompt_token_ids[: len(header)] for r in asking} == {tuple(header)}
    begun = {r.request_id: r.prompt_token_ids[len(header) :] for r in asking}
    given = {
        name.removesuffix("-prompt"): byte_backend().decode(list(words))
        for name, words in begun.items()
    }
    assert all(text.startswith(given[name]) for name, text in texts.items() if text is not None)
    # Half of 40 and more by chance: between 8 and 32 but once in 5,000.
    assert 0.2 < sum(bool(words) for words in given.values()) / len(given) < 0.8
    assert len(set(given.values())) > 10
    assert {r.params.temperature for r in asking} == {1.0}
    assert len({r.params.seed for r in asking}) == len(asking)


async def test_the_users_prompts_come_first(tmp_path: Path) -> None:
    config = replace(CONFIG, num_tokens=3000)
    await write(tmp_path, config, PROMPTS[:5], writes_itself=True)
    sources = [answer["source"] for answer in answers(tmp_path)]
    assert Counter(s for s in sources if s.startswith("p")) == {f"p{i}": 1 for i in range(5)}
    assert all(source.startswith("self-") for source in sources[9:]), "four workers"


async def test_a_target_that_writes_nothing_usable(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nothing usable"):
        await write(tmp_path, prompts=[], engine=KeyedEngine([EOS_ID]), writes_itself=True)
    lines = (tmp_path / "prompts.jsonl").read_text().splitlines()
    assert all(json.loads(line)["prompt"] is None for line in lines)


async def test_equal_self_written_prompts_are_dropped(tmp_path: Path) -> None:
    same = KeyedEngine([*ids("  Hello "), EOS_ID])
    with pytest.raises(ConfigError, match="nothing usable"):
        await write(tmp_path, prompts=[], engine=same, writes_itself=True)
    lines = (tmp_path / "prompts.jsonl").read_text().splitlines()
    kept = [json.loads(x)["prompt"] for x in lines if "Hello" in x]
    assert "Hello" in kept
    assert "What  Hello" in kept
    assert len(set(kept)) == len(kept) == len(answers(tmp_path))


async def test_the_wanted_tokens_end_the_stage(tmp_path: Path) -> None:
    progress = await write(tmp_path, replace(CONFIG, num_tokens=500))
    assert 500 <= num_tokens(tmp_path) <= 500 + CONFIG.concurrency
    assert progress.num_tokens == num_tokens(tmp_path)
    before = (tmp_path / "text.jsonl").read_bytes()
    await write(tmp_path, replace(CONFIG, num_tokens=400))
    assert (tmp_path / "text.jsonl").read_bytes() == before


async def test_the_time_ends_the_stage_and_keeps_what_was_said(tmp_path: Path) -> None:
    letters = random.Random(0).choices("abcdefghij", k=10**6)  # no loop
    endless = KeyedEngine(ids("".join(letters)), max_model_len=10**6)
    config = replace(CONFIG, seconds=1.0, max_new_tokens=10**6)
    progress = await write(tmp_path, config, engine=endless)
    assert 1.0 <= progress.seconds
    assert {a["finish"] for a in answers(tmp_path)} == {"cut"}
    assert len(answers(tmp_path)) == CONFIG.concurrency


async def test_the_time_ends_prompts_that_are_being_written(tmp_path: Path) -> None:
    class Slow(KeyedEngine):
        async def generate(self, request: Request) -> AsyncGenerator[RequestOutput, None]:
            async for output in super().generate(request):
                await asyncio.sleep(0.05)
                yield output

    endless = Slow(ids("a") * 10**6)  # 10 s for the longest prompt
    config = replace(CONFIG, seconds=0.3)
    progress = await write(tmp_path, config, [], endless, writes_itself=True)
    assert 0.3 <= progress.seconds
    # Not noted as dropped: it is written again, and to its end, by a run with more time.
    assert (tmp_path / "prompts.jsonl").read_bytes() == b""


async def test_no_template_and_no_prompts(tmp_path: Path) -> None:
    engine = KeyedEngine()
    nothing = TextTarget(engine, target(engine).tokenizer, chat_template(None))
    for writer in (nothing, replace(nothing, template=None)):
        with pytest.raises(GlidecapeError, match="no chat template"):
            await generate_text(writer, [], tmp_path, CONFIG, lambda progress: None)


@pytest.mark.parametrize("line", ["{", '{"source": "x"}', '{"prompt_ids": "x"}'])
async def test_a_broken_line_before_the_last_is_named(line: str, tmp_path: Path) -> None:
    (tmp_path / "text.jsonl").write_text(f"{line}\n")
    with pytest.raises(CheckpointError, match=r"text\.jsonl: line 1"):
        await write(tmp_path)
    (tmp_path / "text.jsonl").unlink()
    (tmp_path / "prompts.jsonl").write_text(f"{line}\n")
    with pytest.raises(CheckpointError, match=r"prompts\.jsonl: line 1"):
        await write(tmp_path)
