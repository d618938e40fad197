"""`glidecape eval`: reads the data, measures prompt by prompt, writes results as it goes."""

import asyncio
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.progress import Progress

from bench.paper.about import describe
from bench.paper.agreement import TeacherForced
from bench.paper.data import EncodedPrompt, Prompts, check_files, read_data
from bench.paper.figures import PromptResult, set_figures, usable
from bench.paper.methods import (
    CHAIN_DEPTH,
    Method,
    MethodName,
    glide_of,
    make_methods,
    parse_names,
)
from bench.paper.rounds import Answer
from bench.paper.session import Session, StepRecorder
from bench.paper.tables import Report, markdown
from server.build import LoadedModel, build_model
from server.cli.terminal import report, stderr
from server.config import ModelSettings
from server.errors import ConfigError
from weights.train.card import write_measured

_WARM_UP_TOKENS = 16


@dataclass(frozen=True, slots=True)
class EvalOptions:
    """What `glidecape eval` takes besides the model's settings."""

    files: tuple[Path, ...]
    draft_model: str | None
    limit: int | None
    """Prompts per file."""
    new_tokens: int
    out: Path | None
    policies: str | None
    card: bool = False
    """Whether the report goes into the draft's `card.md`, too."""


def run_eval(settings: ModelSettings, options: EvalOptions) -> None:
    """Measures, writes `eval.json` and `eval.md`, prints the latter.

    Raises:
        StartupError: whatever is wrong with settings, data, draft or the folder to write; before
            anything is measured.
    """
    files = check_files(options.files)
    names = parse_names(options.policies, options.draft_model is not None)
    if settings.draft in ("none", "ngram"):
        raise ConfigError("draft", settings.draft, "expected a folder with a GliDe draft")
    card_folder = _card_folder(settings) if options.card else None
    out = _make_folder(options.out or Path(f"eval-{Path(settings.draft).expanduser().name}"))
    # Methods share the engine's blocks: a block cached under one draft lacks another's KV.
    settings = settings.model_copy(update={"prefix_caching": False})
    recorder = StepRecorder()
    model = build_model(settings, report, recorder.observe)
    prompts = read_data(model, files, options.limit, options.new_tokens)
    methods = make_methods(model, settings, names, options.draft_model, report)
    run = _Run(model, recorder, methods, prompts, options.new_tokens, _draft_name(settings), out)
    asyncio.run(run.measure())
    text = markdown(run.report())
    print(text)
    if card_folder is not None:
        report(f"wrote {write_measured(card_folder, text)}")
    report(f"wrote {out / 'eval.md'} and {out / 'eval.json'}")


class _Run:
    """One evaluation in progress."""

    def __init__(
        self,
        model: LoadedModel,
        recorder: StepRecorder,
        methods: Sequence[Method],
        prompts: Prompts,
        new_tokens: int,
        draft_name: str,
        out: Path,
    ) -> None:
        drafter, glide = glide_of(model)
        runner = model.runner
        self.model, self.methods, self.prompts = model, methods, prompts
        self.new_tokens, self.out = new_tokens, out
        self.session = Session(model.engine, runner, recorder)
        self.teacher = TeacherForced(runner.model, glide, runner.caches, CHAIN_DEPTH)
        dtype = runner.caches[0].keys.dtype
        self.about = describe(model.name, draft_name, dtype, drafter.device, new_tokens)
        self.results: dict[str, list[PromptResult]] = {}

    async def measure(self) -> None:
        """All prompts. Results are written after each data set, and of what is measured so far if
        it is interrupted."""
        self.model.engine.start()
        total = sum(len(prompts) for prompts in self.prompts.values())
        # A bar that redraws itself from a thread would take time from what is measured.
        progress = Progress(console=stderr, auto_refresh=False)
        bar = progress.add_task("warm-up", total=total)
        try:
            with progress:
                await self._warm_up()
                for name, prompts in self.prompts.items():
                    progress.update(bar, description=name)
                    self.results[name] = []
                    for prompt in prompts:
                        self.results[name].append(await self._measure(prompt))
                        progress.advance(bar)
                        progress.refresh()
                    self._write()
        finally:
            await self.model.engine.stop()
            self._write()

    async def _warm_up(self) -> None:
        """Each method once: first calls allocate, and `auto` begins to learn."""
        first = next(prompt for prompts in self.prompts.values() for prompt in prompts)
        await self.session.compare(self.methods, first.token_ids, _WARM_UP_TOKENS, 0)

    async def _measure(self, prompt: EncodedPrompt) -> PromptResult:
        turn = sum(map(len, self.results.values()))
        answers = await self.session.compare(self.methods, prompt.token_ids, self.new_tokens, turn)
        ordered: dict[MethodName, Answer] = {m.name: answers[m.name] for m in self.methods}
        agreement = self.teacher.measure(prompt.token_ids, ordered["plain"].token_ids)
        return PromptResult(prompt.id, len(prompt.token_ids), ordered, agreement)

    def report(self) -> Report:
        """Of what is measured so far."""
        sets = {name: usable(found) for name, found in self.results.items()}
        figures = {name: set_figures([found]) for name, found in sets.items()}
        mean = set_figures(list(sets.values())) if len(sets) > 1 else None
        return Report(self.about, figures, mean)

    def _write(self) -> None:
        found = self.report()
        raw = {name: list(map(_raw, prompts)) for name, prompts in self.results.items()}
        text = json.dumps(asdict(found) | {"prompts": raw}, indent=1) + "\n"
        (self.out / "eval.json").write_text(text, encoding="utf-8")
        (self.out / "eval.md").write_text(markdown(found), encoding="utf-8")


def _raw(prompt: PromptResult) -> dict[str, Any]:
    """What was recorded of a prompt, for whoever wants other figures."""
    return {
        "id": prompt.id,
        "num_prompt_tokens": prompt.num_prompt_tokens,
        "agreement": asdict(prompt.agreement),
        "answers": {name: _raw_answer(prompt, name) for name in prompt.answers},
    }


def _raw_answer(prompt: PromptResult, name: MethodName) -> dict[str, Any]:
    answer = prompt.answers[name]
    return {
        "num_tokens": len(answer.token_ids),
        "num_steps": len(answer.steps),
        "decode_seconds": answer.decode_seconds,
        **{f"{part}_seconds": answer.seconds(part) for part in ("draft", "verify", "other")},
        "accepted": [step.num_accepted for step in answer.steps],
        "depths": [step.depth for step in answer.steps],
        "equals_plain": answer.token_ids == prompt.plain.token_ids,
    }


def _draft_name(settings: ModelSettings) -> str:
    return Path(settings.draft).expanduser().resolve().name


def _card_folder(settings: ModelSettings) -> Path:
    """The draft's own folder, before anything is measured."""
    folder = Path(settings.draft).expanduser().resolve()
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise ConfigError("card", settings.draft, "the draft is in no folder that can be written")
    return folder


def _make_folder(folder: Path) -> Path:
    """Made before anything is measured: hours of work should not end in a missing permission."""
    folder = folder.expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "eval.json").touch()
    except OSError as error:
        raise ConfigError("out", str(folder), f"can't be written: {error}") from None
    return folder
