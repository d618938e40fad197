"""A draft for the tiny target."""

from pathlib import Path

import torch

from server.models.config import model_config
from server.models.glide_config import GlideConfig, target_shape
from server.models.glide_parameters import TOKEN_TABLE, GlideParameters
from server.models.layers import Placement
from tests.engine.tiny import CPU
from tests.weights.train.checkpoints import CONFIG
from weights.glide import save_glide


def write_draft(folder: Path) -> None:
    """A random one, for the checkpoint that `tests/weights/train/checkpoints.py` writes."""
    target = model_config(CONFIG)
    config = GlideConfig(
        hidden_size=32,
        intermediate_size=48,
        num_layers=1,
        num_heads=4,
        num_kv_heads=2,
        head_dim=8,
        rms_norm_eps=1e-5,
        target=target_shape(target),
        glimpse_layers=((0, -1),),
        glimpse_hidden=True,
        draft_vocab_size=101,
    )
    tensors = GlideParameters(config, target, Placement(CPU, torch.float32)).slots()
    generator = torch.Generator().manual_seed(5)
    for name, slot in tensors.items():
        if name == TOKEN_TABLE:
            slot.copy_(torch.randperm(258, generator=generator)[: len(slot)])
        else:
            slot.normal_(0.0, 0.2, generator=generator)
    save_glide(folder, config, tensors)
