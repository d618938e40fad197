"""What is measured so far: as figures, and as the files of the results folder."""

import json
import time
from collections.abc import Mapping
from dataclasses import asdict

from bench.paper.data.contamination import Contamination
from bench.paper.data.sets import DataSets
from bench.paper.measure.about import About
from bench.paper.report.figures import PromptResult, SetFigures, set_figures, usable
from bench.paper.report.tables import DataCounts, Evaluation, markdown
from bench.paper.results.folder import ResultsFolder
from bench.paper.results.journal import RoundKey, round_key
from bench.paper.results.records import in_short

_WRITE_SECONDS, _WRITE_SHARE = 60.0, 0.05
"""Least seconds between two writings of all figures, and the largest share of the time that these
may take: over many prompts the intervals take seconds. The rounds themselves are in the journal."""


class Results:
    """The measured rounds, their figures and the files made of them.

    Args:
        rounds: the measured rounds, to which more are added. They may be of prompts that are not
            asked for.
    """

    def __init__(
        self,
        about: About,
        sets: DataSets,
        contamination: Contamination | None,
        rounds: Mapping[RoundKey, PromptResult],
        folder: ResultsFolder,
    ) -> None:
        self.about, self.sets, self.contamination = about, sets, contamination
        self.folder = folder
        self._rounds = rounds
        self._keys = {
            name: [round_key(name, prompt.id, prompt.token_ids) for prompt in data.prompts]
            for name, data in sets.items()
        }
        self._due = time.monotonic() + _WRITE_SECONDS
        self._figures: dict[str, tuple[int, SetFigures]] = {}
        self._report: Evaluation | None = None
        self._num_reported = -1

    @property
    def num_prompts(self) -> int:
        """Number of prompts that are asked for."""
        return sum(map(len, self._keys.values()))

    @property
    def num_done(self) -> int:
        """How many of these are measured."""
        return sum(len(self.measured(name)) for name in self.sets)

    def measured(self, data_set: str) -> list[PromptResult]:
        """The measured rounds of a data set, in the file's order."""
        return [self._rounds[key] for key in self._keys[data_set] if key in self._rounds]

    def report(self) -> Evaluation:
        """Reports what is measured so far; sets without a measured prompt are left out."""
        if self._report is None or self._num_reported != self.num_done:
            self._num_reported = self.num_done
            self._report = self._make_report()
        return self._report

    def write(self) -> None:
        """Writes both files, each atomically. Does nothing as long as nothing is measured.

        Raises:
            CheckpointError: they can't be written.
        """
        if not self.num_done:
            return
        started = time.monotonic()
        found = self.report()
        raw = {name: list(map(in_short, self.measured(name))) for name in found.sets}
        text = json.dumps(asdict(found) | {"prompts": raw}, indent=1) + "\n"
        self.folder.write(text, markdown(found))
        now = time.monotonic()
        self._due = now + max(_WRITE_SECONDS, (now - started) / _WRITE_SHARE)

    def write_if_due(self) -> None:
        """Writes the files, once a minute at most."""
        if time.monotonic() >= self._due:
            self.write()

    def _make_report(self) -> Evaluation:
        measured = {name: found for name in self.sets if (found := self.measured(name))}
        sets = {name: usable(found) for name, found in measured.items()}
        figures = {name: self._set_figures(name, found) for name, found in sets.items()}
        mean = set_figures(list(sets.values())) if len(sets) > 1 else None
        data = {
            name: DataCounts(
                num_in_file=of_set.num_in_file,
                num_chosen=len(of_set.prompts),
                num_measured=len(measured.get(name, ())),
                num_left_out=len(measured.get(name, ())) - len(sets.get(name, ())),
            )
            for name, of_set in self.sets.items()
        }
        return Evaluation(self.about, data, self.contamination, figures, mean)

    def _set_figures(self, name: str, found: list[PromptResult]) -> SetFigures:
        """Works out a set's figures; those of a complete set only once."""
        num, figures = self._figures.get(name, (-1, None))
        if figures is None or num != len(found):
            figures = set_figures([found])
            self._figures[name] = len(found), figures
        return figures
