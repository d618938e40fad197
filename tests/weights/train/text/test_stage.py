from dataclasses import replace
from pathlib import Path

from server.config import ModelSettings, load_settings
from tests.weights.train.checkpoints import write_checkpoint
from weights.train.text.stage import TextPlan, read_source, size_engine


def test_answers_at_once_are_as_many_as_the_memory_holds(tmp_path: Path) -> None:
    settings = load_settings(
        ModelSettings, model=str(write_checkpoint(tmp_path / "tiny")), dtype="float32"
    )
    source = read_source(settings, None, print, writes=True)
    plan = TextPlan(1000, None, None, max_new_tokens=352, seed=0)
    typical = (160 + 352) * 3 * 2 * 2 * 8 * 4  # tokens, layers, k and v, heads, head_dim, bytes
    sized, at_once = size_engine(settings, source, plan)
    assert (at_once, sized.max_num_seqs, sized.max_model_len) == (32, 32, 512)
    assert sized.kv_memory == 32 * typical
    small = settings.model_copy(update={"kv_memory": 5 * typical + 1})
    sized, at_once = size_engine(small, source, plan)
    assert (at_once, sized.kv_memory) == (5, 5 * typical)
    asked = replace(plan, concurrency=100)
    sized, at_once = size_engine(settings, source, asked)
    assert (at_once, sized.max_num_batched_tokens) == (100, 400)
