"""A prompt round as JSON: whole for the journal, from which it is read back, and in short for
whoever reads `eval.json`. Pure.
"""

from dataclasses import asdict, astuple
from typing import Any

from bench.paper.measure.agreement import Agreement
from bench.paper.measure.methods import MethodName
from bench.paper.measure.rounds import Answer, Step
from bench.paper.report.figures import PromptResult


def to_record(result: PromptResult) -> dict[str, Any]:
    """A round as JSON with everything that was recorded; `from_record` reads it back."""
    return {
        "id": result.id,
        "num_prompt_tokens": result.num_prompt_tokens,
        "agreement": asdict(result.agreement),
        "answers": {name: _answer(answer) for name, answer in result.answers.items()},
    }


def from_record(record: dict[str, Any]) -> PromptResult:
    """Reads a round. Raises KeyError, TypeError or ValueError where the record is broken."""
    answers: dict[MethodName, Answer] = {
        name: Answer(
            tuple(answer["token_ids"]),
            float(answer["decode_seconds"]),
            tuple(Step(*step) for step in answer["steps"]),
        )
        for name, answer in record["answers"].items()
    }
    sums = {name: tuple(values) for name, values in record["agreement"].items()}
    return PromptResult(
        str(record["id"]), int(record["num_prompt_tokens"]), answers, Agreement(**sums)
    )


def in_short(result: PromptResult) -> dict[str, Any]:
    """One prompt's rounds in short, for whoever wants other figures than ours."""
    return {
        "id": result.id,
        "num_prompt_tokens": result.num_prompt_tokens,
        "agreement": asdict(result.agreement),
        "answers": {name: _answer_in_short(result, name) for name in result.answers},
    }


def _answer(answer: Answer) -> dict[str, Any]:
    """An answer as JSON. Its steps are lists without names: there are a hundred in an answer."""
    return {
        "decode_seconds": answer.decode_seconds,
        "token_ids": answer.token_ids,
        "steps": [astuple(step) for step in answer.steps],
    }


def _answer_in_short(result: PromptResult, name: MethodName) -> dict[str, Any]:
    answer = result.answers[name]
    return {
        "num_tokens": len(answer.token_ids),
        "num_steps": len(answer.steps),
        "decode_seconds": answer.decode_seconds,
        **{f"{part}_seconds": answer.seconds(part) for part in ("draft", "verify", "other")},
        "accepted": [step.num_accepted for step in answer.steps],
        "depths": [step.depth for step in answer.steps],
        "equals_plain": answer.token_ids == result.plain.token_ids,
    }
