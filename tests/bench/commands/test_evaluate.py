"""`glidecape eval` as a user meets it, on the default model with a random GliDe."""

import json
from pathlib import Path

import pytest
import torch

from server.config import DEFAULT_MODEL, ModelSettings, load_settings
from server.models.config import model_config
from server.models.glide_config import GlideConfig, target_shape
from server.models.glide_parameters import TOKEN_TABLE, GlideParameters
from server.models.layers import Placement
from tests.live import run_glidecape
from weights.checkpoint import read_config
from weights.glide import save_glide
from weights.locate import locate_model

pytestmark = pytest.mark.real_model


@pytest.fixture(scope="module")
def draft(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One layer of the target's shape that knows 512 tokens, weights at random."""
    cache = load_settings(ModelSettings).cache_dir
    folder = locate_model(DEFAULT_MODEL, cache, torch.bfloat16, lambda line: None)
    target = model_config(read_config(folder))
    config = GlideConfig(
        hidden_size=target.hidden_size,
        intermediate_size=256,
        num_layers=1,
        num_heads=target.num_heads,
        num_kv_heads=target.num_kv_heads,
        head_dim=target.head_dim,
        rms_norm_eps=target.rms_norm_eps,
        target=target_shape(target),
        glimpse_hidden=True,
        draft_vocab_size=512,
    )
    slots = GlideParameters(config, target, Placement(torch.device("cpu"), torch.float32)).slots()
    generator = torch.Generator().manual_seed(1)
    weights = {
        name: torch.arange(512)
        if name == TOKEN_TABLE
        else torch.randn(slot.shape, generator=generator).to(torch.bfloat16) * 0.05
        for name, slot in slots.items()
    }
    out = tmp_path_factory.mktemp("drafts") / "random-glide"
    save_glide(out, config, weights)
    return out


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("data")
    paths = [folder / "gsm8k.jsonl", folder / "spider.jsonl"]
    for path in paths:
        chat = {"id": "1", "messages": [{"role": "user", "content": "Count to ten."}]}
        path.write_text(json.dumps(chat), encoding="utf-8")
    return [str(path) for path in paths]


def test_tables_on_stdout_and_in_files(draft: Path, data: list[str], tmp_path: Path) -> None:
    out = tmp_path / "results"
    done = run_glidecape(
        "eval", "--draft", str(draft), "--data", *data, "--tokens", "8", "--out", str(out),
        "--methods", "chain,beam8,auto",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("# random-glide on smollm2-135m-instruct\n")
    assert done.stdout == (out / "eval.md").read_text() + "\n"
    stored = json.loads((out / "eval.json").read_text())
    assert list(stored["sets"]) == ["gsm8k", "spider"]
    assert stored["about"]["command"].startswith("glidecape eval --draft ")
    for name, method in stored["mean"]["methods"].items():
        assert method["num_differing"] == 0, name


def test_what_is_wrong_is_one_line(draft: Path, data: list[str]) -> None:
    for arguments, part in (
        (("--draft", str(draft), "--data", data[0], "--methods", "fast"), "methods='fast'"),
        (("--data", data[0], "--ablate", "depth"), "ablate='depth'"),
        (("--data", data[0], "--ablate", "glimpse-layers", "--card"), "card=True"),
        (("--data", data[0], "--ablate", "glimpse-layers", "--threads", "1"), "threads=1"),
        (("--draft", str(draft), "--data", data[0], "--steps", "9"), "steps=9"),
        (("--draft", str(draft), "--data", data[0], "--top-p", "0.9"), "top_p=0.9"),
    ):
        done = run_glidecape("eval", *arguments)
        assert done.returncode == 2, done.stderr
        assert "Traceback" not in done.stderr
        (line,) = [text for text in done.stderr.splitlines() if text.startswith("glidecape: ")]
        assert part in line
