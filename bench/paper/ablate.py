"""The paper's layer study: small drafts that read other layers of the target, trained alike.

Every variant learns from the same text for the same number of steps and is judged by the trainer's
held-out text: how often its most probable token is the target's, per delay. The target's forward
runs once: the widest variant comes first, and the others' features are cut out of its own.
"""

import json
import shutil
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from rich.console import Console
from safetensors.torch import load_file

from bench.paper.report import cells
from server.cli.terminal import report, stderr
from server.config import ModelSettings
from server.errors import ConfigError
from server.loading.machine import pick_device
from server.loading.target import locate_target
from weights.files import write_whole
from weights.train.config import Precision, TrainConfig
from weights.train.features.store import FeatureStore, Shard, read_key
from weights.train.features.target import TrainTarget
from weights.train.fit.precision import pick_precision
from weights.train.fit.validate import Validation
from weights.train.load import load_for_training
from weights.train.text.samples import PromptIds
from weights.train.train import train

STUDY = "glimpse-layers"


@dataclass(frozen=True, slots=True)
class Variant:
    """What a draft sees of the target."""

    name: str
    glimpse_layers: tuple[int, ...]
    """Counted from 0; empty for none: only the draft's own attention."""
    glimpse_hidden: bool

    @property
    def label(self) -> str:
        layers = ", ".join(str(layer) for layer in self.glimpse_layers)
        return f"{self.name} ({layers})" if layers else self.name

    @property
    def folder(self) -> str:
        """Name of the folder with its draft and its features."""
        return self.name + ("-hidden" if self.glimpse_hidden else "")


@dataclass(frozen=True, slots=True)
class AblationOptions:
    """How the variants are trained; what is not here is the trainer's default."""

    text: tuple[Path, ...]
    """Files as `glidecape train --text` takes them: see `weights/train/text/samples.py`."""
    out: Path
    steps: int
    precision: Precision = "auto"


Results = Sequence[tuple[Variant, Validation]]


def variants(num_layers: int) -> list[Variant]:
    """No layer, the first, the middle, the last, all three; with and without the hidden state.
    The one that sees everything comes first. A target with fewer than three layers has fewer."""
    first, middle, last = 0, (num_layers - 1) // 2, num_layers - 1
    several = tuple(sorted({first, middle, last}))
    layers: dict[tuple[int, ...], str] = {}
    for name, read in (
        ("last", (last,)),
        ("first", (first,)),
        ("middle", (middle,)),
        ("several", several),
        ("none", ()),
    ):
        layers.setdefault(read, name)
    order = sorted(layers, key=lambda read: (-len(read), read))
    return [Variant(layers[read], read, hidden) for hidden in (True, False) for read in order]


def run_ablation(settings: ModelSettings, study: str, options: AblationOptions) -> None:
    """Loads the target, trains all variants, prints the table and writes it as `ablation.md` and
    `ablation.json`.

    Raises:
        StartupError: another study than glimpse-layers; whatever is wrong with model, text or
            folder.
    """
    if study != STUDY:
        raise ConfigError("ablate", study, f"expected {STUDY}")
    if not options.text:
        raise ConfigError("data", "", "training text is needed: what glidecape train wrote")
    dtype = pick_precision(options.precision, pick_device("auto"))
    # Precision is chosen by a measurement, which must not come out differently among the variants.
    options = replace(options, precision="float32" if dtype == torch.float32 else "bfloat16")
    files = locate_target(settings, dtype, report)
    wanted = variants(files.config.num_layers)
    config = _train_config(options, wanted[0])
    loaded = load_for_training(settings, config, report)
    results = ablate(
        options, loaded.target, loaded.prompt_ids, loaded.stop_token_ids, stderr, wanted
    )
    print(table(results))


def ablate(
    options: AblationOptions,
    target: TrainTarget,
    prompt_ids: PromptIds,
    stop_token_ids: Collection[int],
    console: Console,
    wanted: Sequence[Variant],
) -> Results:
    """Trains all variants, or continues a run that was killed.

    Args:
        target: the target, prepared for all layers that are read.
        prompt_ids, stop_token_ids: as for `train`.
        wanted: the variants; the first one must see all that the others see.

    Raises:
        StartupError: as for `train`.
    """
    widest, results = wanted[0], list[tuple[Variant, Validation]]()
    for variant in wanted:
        console.print(f"{variant.label}, {_hidden(variant)}", style="bold", highlight=False)
        config = _train_config(options, variant)
        features = config.work / "features"
        if variant != widest:
            _cut_features(options.out / widest.folder / "work" / "features", features, variant)
        reading = replace(target, glimpse_layers=variant.glimpse_layers)
        found = train(config, reading, prompt_ids, stop_token_ids, console).validation
        if found is None:
            shown = ", ".join(map(str, options.text))
            raise ConfigError("data", shown, "is too little: nothing of it is held out to judge by")
        results.append((variant, found))
        if variant != widest:  # they take more disk than all else, and are cut anew in seconds
            shutil.rmtree(features)
        _write(options, results)
    return results


def table(results: Results) -> str:
    """Markdown: agreement per delay, in percent."""
    delays = max((len(found.agreement) for _, found in results), default=0)
    header = (
        *("layers read", "hidden state"),
        *(f"delay {delay + 1}" for delay in range(delays)),
        *("tokens per step, chain", "loss"),
    )
    rows = [
        (
            *(variant.label, _hidden(variant)),
            *(f"{100 * share:.1f}" for share in found.agreement),
            *(f"{found.chain_tokens:.2f}", f"{found.loss:.3f}"),
        )
        for variant, found in results
    ]
    return cells.table(header, rows)


def _train_config(options: AblationOptions, variant: Variant) -> TrainConfig:
    folder = options.out / variant.folder
    return TrainConfig(
        text=options.text,
        out=folder / "draft",
        work=folder / "work",
        glimpse_layers=variant.glimpse_layers,
        glimpse_hidden=variant.glimpse_hidden,
        copy_hint=False,  # it would make up for layers in which the target does not copy
        steps=options.steps,
        precision=options.precision,
    )


def _cut_features(widest: Path, folder: Path, variant: Variant) -> None:
    """Writes the features that a variant needs, cut from those of a variant that sees more."""
    key = read_key(widest)
    if key is None:
        raise RuntimeError(f"{widest} holds no features")
    store = FeatureStore(
        folder,
        replace(key, glimpse_layers=variant.glimpse_layers, glimpse_hidden=variant.glimpse_hidden),
    )
    columns = torch.tensor(
        [key.glimpse_layers.index(layer) for layer in variant.glimpse_layers], dtype=torch.int64
    )
    for path in sorted(widest.glob("*.safetensors")):
        tensors = load_file(path)
        tensors["kv"] = tensors["kv"][:, columns]
        if not variant.glimpse_hidden:
            tensors.pop("hidden", None)
        store.write(Shard(path.stem, ()), tensors)


def _hidden(variant: Variant) -> str:
    return "with hidden state" if variant.glimpse_hidden else "without"


def _write(options: AblationOptions, results: Results) -> None:
    """Writes the results so far."""
    found = [
        asdict(variant) | {"label": variant.label} | validation._asdict()
        for variant, validation in results
    ]
    content = {"steps": options.steps, "text": [str(p) for p in options.text], "variants": found}
    write_whole(options.out / "ablation.json", json.dumps(content, indent=1) + "\n")
    write_whole(options.out / "ablation.md", table(results) + "\n")
