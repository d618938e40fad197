"""`glidecape eval`: reads the data, measures prompt by prompt, writes results as it goes."""

import asyncio
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from bench.paper.data.contamination import Contamination, find_contamination
from bench.paper.data.sets import DataSets, EncodedPrompt, check_files, read_data
from bench.paper.measure.about import About, describe
from bench.paper.measure.agreement import TeacherForced
from bench.paper.measure.methods import (
    CHAIN_DEPTH,
    Method,
    MethodName,
    glide_of,
    make_methods,
    parse_names,
)
from bench.paper.measure.rounds import Answer
from bench.paper.measure.session import GREEDY, Session, StepRecorder
from bench.paper.progress import RoundProgress
from bench.paper.report.figures import PromptResult
from bench.paper.report.tables import markdown
from bench.paper.results.folder import ResultsFolder
from bench.paper.results.identity import run_identity
from bench.paper.results.journal import Identity, Journal, round_key
from bench.paper.results.results import Results
from server.cli.terminal import report, stderr
from server.config import ModelSettings
from server.engine.types import SamplingDefaults
from server.errors import ConfigError
from server.loading.machine import default_threads
from server.loading.model import LoadedModel, build_model
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
    methods: str | None
    card: bool = False
    """Whether the report goes into the draft's `card.md`, too."""
    trained_on: tuple[Path, ...] = ()
    """The draft's training text, to look for the prompts in."""
    sampling: SamplingDefaults = GREEDY
    """How tokens are drawn."""


def run_eval(settings: ModelSettings, options: EvalOptions) -> None:
    """Measures, writes `eval.json` and `eval.md`, prints the latter. What an earlier run with the
    same draft, settings and machine has measured in the folder is not measured again.

    Raises:
        StartupError: whatever is wrong with settings, data, draft or the folder to write; before
            anything is measured.
    """
    files = check_files(options.files)
    _check_trained_on(options.trained_on)
    names = parse_names(options.methods, options.draft_model is not None)
    if settings.draft in ("none", "ngram"):
        raise ConfigError("draft", settings.draft, "expected a folder with a GliDe draft")
    card_folder = _card_folder(settings) if options.card else None
    # Methods share the engine's blocks: a block cached under one draft lacks another's KV.
    settings = settings.model_copy(update={"prefix_caching": "off"})
    with ResultsFolder(options.out or Path(f"eval-{_draft_name(settings)}")) as folder:
        recorder = StepRecorder()
        report(f"evaluating the draft {_draft_name(settings)} of {settings.model}")
        model = build_model(settings, report, recorder.observe)
        sets = read_data(model, files, options.limit, options.new_tokens)
        found = _contamination(model, sets, options.trained_on)
        methods = make_methods(model, settings, names, options.draft_model, report)
        about = _about(model, settings, options)
        identity = run_identity(model, settings, methods, options.draft_model, about)
        journal = folder.open_journal(identity, report)
        try:
            about = _begin(journal, identity, about, sets)
            results = Results(about, sets, found, journal.rounds, folder)
            run = _Run(model, recorder, methods, options, results, journal)
            asyncio.run(run.measure())
        finally:
            journal.close()
        text = markdown(results.report())
        print(text)
        if card_folder is not None:
            report(f"wrote {write_measured(card_folder, text)}")
        report(f"wrote {folder.path / 'eval.md'} and {folder.path / 'eval.json'}")


class _Run:
    """One evaluation in progress."""

    def __init__(
        self,
        model: LoadedModel,
        recorder: StepRecorder,
        methods: Sequence[Method],
        options: EvalOptions,
        results: Results,
        journal: Journal,
    ) -> None:
        _, glide = glide_of(model)
        runner = model.runner
        self.engine, self.methods, self.new_tokens = model.engine, methods, options.new_tokens
        self.results, self.journal = results, journal
        self.session = Session(model.engine, runner, recorder, options.sampling)
        self.teacher = TeacherForced(runner.model, glide, runner.caches, CHAIN_DEPTH)

    async def measure(self) -> None:
        """Measures all prompts that are missing. Each is in the journal as soon as it is measured.
        The figures are written from time to time, after each data set, and at the end, also after
        an error."""
        num_prompts, num_done = self.results.num_prompts, self.results.num_done
        if num_done == num_prompts:
            self.results.write()
            return
        self.engine.start()
        try:
            with RoundProgress(num_prompts, num_done) as progress:
                await self._warm_up()
                progress.begin()
                await self._measure_sets(progress)
        finally:
            await self.engine.stop()
            self.results.write()
            if self.results.num_done < num_prompts:
                done = f"{self.results.num_done} of {num_prompts} prompts are measured"
                report(f"{done}; the same command goes on with the others")

    async def _measure_sets(self, progress: RoundProgress) -> None:
        for name, data in self.results.sets.items():
            for prompt in data.prompts:
                key = round_key(name, prompt.id, prompt.token_ids)
                if key in self.journal.rounds:
                    continue
                self.journal.add(key, await self._measure(prompt))
                progress.advance(name, len(self.results.measured(name)), len(data.prompts))
                self.results.write_if_due()
            self.results.write()

    async def _warm_up(self) -> None:
        """Runs each method once: first calls allocate memory, and `auto` begins to learn."""
        first = next(prompt for data in self.results.sets.values() for prompt in data.prompts)
        await self.session.compare(self.methods, first.token_ids, _WARM_UP_TOKENS, 0)

    async def _measure(self, prompt: EncodedPrompt) -> PromptResult:
        turn = len(self.journal.rounds)
        answers = await self.session.compare(self.methods, prompt.token_ids, self.new_tokens, turn)
        ordered: dict[MethodName, Answer] = {m.name: answers[m.name] for m in self.methods}
        agreement = self.teacher.measure(prompt.token_ids, ordered["plain"].token_ids)
        return PromptResult(prompt.id, len(prompt.token_ids), ordered, agreement)


def _about(model: LoadedModel, settings: ModelSettings, options: EvalOptions) -> About:
    drafter, _ = glide_of(model)
    num_threads = settings.threads or default_threads()
    draft = _draft_name(settings)
    return describe(
        *(model.facts.name, draft, model.facts.precision, drafter.device, num_threads),
        *(options.new_tokens, options.sampling),
    )


def _begin(journal: Journal, identity: Identity, about: About, sets: DataSets) -> About:
    """Notes the run in the journal, unless it has nothing left to measure; gives the starts of
    all runs."""
    keys = [round_key(name, p.id, p.token_ids) for name, data in sets.items() for p in data.prompts]
    if any(key not in journal.rounds for key in keys):
        journal.begin(identity, about.started)
    return replace(about, started=journal.started[0], resumed=tuple(journal.started[1:]))


def _check_trained_on(files: Sequence[Path]) -> None:
    """Finds missing files before the model is loaded."""
    for path in files:
        if not path.is_file():
            raise ConfigError("trained_on", str(path), "there is no such file")


def _contamination(
    model: LoadedModel, sets: DataSets, files: Sequence[Path]
) -> Contamination | None:
    """Looks for the prompts in the training text; None where none is given. Warns of what is found:
    the figures are then not of text that the draft has never seen."""
    if not files:
        return None
    found = find_contamination(sets, files, model.tokenizer)
    if found.num_found:
        ids = [prompt_id for of_set in found.found.values() for prompt_id in of_set]
        shown = ", ".join(ids[:5]) + (" …" if len(ids) > 5 else "")
        total = sum(len(data.prompts) for data in sets.values())
        warning = f"WARNING: {len(ids)} of {total} prompts occur in the training text: {shown}"
        stderr.print(warning, style="bold red", markup=False, soft_wrap=True)
    return found


def _draft_name(settings: ModelSettings) -> str:
    return Path(settings.draft).expanduser().resolve().name


def _card_folder(settings: ModelSettings) -> Path:
    """The draft's own folder, which must be found before anything is measured."""
    folder = Path(settings.draft).expanduser().resolve()
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise ConfigError("card", settings.draft, "the draft is in no folder that can be written")
    return folder
