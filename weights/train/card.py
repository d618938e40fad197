"""`card.md` in a draft's folder, for people: what it was made of and how, and how well it does.

# NAME            target
## Data           files, answers, tokens
## Recipe         the settings
## Held-out text  the trainer's own figures
## Command
## Measured       `glidecape eval --card` writes it; comes last, gone with the next training
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from server.errors import CheckpointError
from weights.files import write_whole
from weights.train.config import TrainConfig
from weights.train.fit.validate import Validation
from weights.train.text.json_lines import read_json_lines
from weights.train.train import Trained

FILE = "card.md"
_MEASURED = "## Measured"
_SELF_WRITTEN = "self-"
"""How the source of an answer to the target's own prompt begins."""
_RECIPE = (
    "copy_hint", "forgotten_copies", "copied_share", "context_vocab_size", "max_delay", "top_k",
    "feature_dtype", "batch_tokens", "learning_rate", "warmup", "decay", "averaging",
    "weight_decay", "gradient_clip", "epochs", "steps", "minutes", "seed",
)  # fmt: skip


class TextCounts(NamedTuple):
    """Counts of one file of text."""

    name: str
    num_answers: int
    num_tokens: int
    """Tokens of the answers; plain text counts as one answer."""
    num_self_written: int
    """Answers to prompts that the target wrote itself."""


def count_text(path: Path) -> TextCounts:
    """Reads a file of training text.

    Raises:
        CheckpointError: it can't be read; names the line.
    """
    answers = tokens = self_written = 0
    for _, entry in read_json_lines(path):
        answers += 1
        tokens += len(entry.get("response_ids") or entry.get("text_ids") or ())
        self_written += str(entry.get("source", "")).startswith(_SELF_WRITTEN)
    return TextCounts(path.name, answers, tokens, self_written)


def write_card(config: TrainConfig, target: str, trained: Trained, command: str) -> Path:
    """Writes the card of a draft that was just trained; an older one goes.

    Args:
        target: its name.
        command: how to make the draft again.

    Raises:
        CheckpointError: it can't be written.
    """
    parts = [
        f"# {config.out.name}",
        f"A GliDe draft for {target}.",
        _data(list(map(count_text, config.text)), trained),
        _recipe(config, trained),
        f"## Held-out text\n\n{_held_out(trained.validation)}",
        f"## Command\n\n    {command}",
    ]
    path = config.out / FILE
    write_whole(path, "\n\n".join(parts) + "\n")
    return path


def write_measured(folder: Path, markdown: str) -> Path:
    """Puts the report of an evaluation into a draft's card, in place of an older one. A draft
    without a card gets one.

    Raises:
        CheckpointError: the card can't be read or written.
    """
    path = folder / FILE
    try:
        card = path.read_text(encoding="utf-8") if path.exists() else f"# {folder.name}\n"
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(path, str(error)) from None
    kept = re.split(rf"^{_MEASURED}$", card, maxsplit=1, flags=re.MULTILINE)[0].rstrip()
    deeper = re.sub(r"^#", "###", markdown.strip(), flags=re.MULTILINE)
    write_whole(path, f"{kept}\n\n{_MEASURED}\n\n{deeper}\n")
    return path


def _data(files: Sequence[TextCounts], trained: Trained) -> str:
    rows = [
        (file.name, f"{file.num_answers:,}", f"{file.num_tokens:,}", _share(file)) for file in files
    ]
    training, held_out = trained.data.training, trained.data.held_out
    learnt = sum(at.sample.num_labels for at in training)
    random = learnt - trained.data.num_learnt
    return (
        "## Data\n\n"
        + _table(("file", "answers", "tokens", "prompts self-written"), rows)
        + f"\n\nLearnt from {len(training):,} samples with {learnt:,} tokens to predict, "
        f"{random:,} of them random ones said twice; {len(held_out):,} samples were held out."
    )


def _share(file: TextCounts) -> str:
    return f"{file.num_self_written / max(1, file.num_answers):.0%}"


def _recipe(config: TrainConfig, trained: Trained) -> str:
    key, state = trained.data.store.key, trained.state
    layers = ", ".join(map(str, key.glimpse_layers)) or "none"
    rows = [
        ("glimpse_layers", layers),
        ("glimpse_hidden", "yes" if key.glimpse_hidden else "no"),
        ("draft_vocab_size", f"{len(state.vocabulary):,}"),
        ("precision", state.precision),
    ]
    if config.from_draft is not None:
        rows.insert(0, ("from_draft", config.from_draft.name))
    for name in _RECIPE:
        value = getattr(config, name)
        if value is not None:
            rows.append((name, f"{value:.4g}" if isinstance(value, float) else str(value)))
    done = (
        f"{state.step:,} steps, {state.epoch + 1} epochs begun, {state.tokens:,} tokens, "
        f"{state.seconds / 60:.1f} minutes."
    )
    return f"## Recipe\n\n{_table(('setting', 'value'), rows)}\n\n{done}"


def _held_out(found: Validation | None) -> str:
    if found is None:
        return "Nothing was held out."
    delays = tuple(f"delay {delay + 1}" for delay in range(len(found.agreement)))
    shares = tuple(f"{100 * share:.1f} %" for share in found.agreement)
    chain = f"tokens a step, chain of {len(delays)}"
    header = ("loss", *(f"agreement, {delay}" for delay in delays), chain)
    return _table(header, [(f"{found.loss:.3f}", *shares, f"{found.chain_tokens:.2f}")])


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
