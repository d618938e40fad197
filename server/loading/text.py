"""What turns a model's texts into token ids and back: tokenizer, chat template, vocabulary. Loaded
without the weights.
"""

from dataclasses import dataclass
from functools import partial

import torch

from server.config import ModelSettings
from server.engine.grammar.compile.compiler import Vocabulary
from server.engine.types import SamplingDefaults
from server.loading.target import TargetFiles, locate_target
from server.models.config import ModelConfig
from server.report import Report
from server.text.chat_template import ChatTemplate
from server.text.tokenizer import Tokenizer, from_hf, load_hf_tokenizer
from weights.generation_config import read_sampling
from weights.model_names import model_name


def end_ids(config: ModelConfig, tokenizer: Tokenizer) -> frozenset[int]:
    """Tokens that end an answer."""
    ids = frozenset(config.eos_token_ids)
    return ids if tokenizer.eos_id is None else ids | {tokenizer.eos_id}


@dataclass(frozen=True, slots=True)
class ModelText:
    """Everything about a model but its weights."""

    name: str
    files: TargetFiles
    tokenizer: Tokenizer
    chat_template: ChatTemplate
    default_sampling: SamplingDefaults
    """Values for requests that don't set them."""

    @property
    def eos_ids(self) -> frozenset[int]:
        return end_ids(self.files.config, self.tokenizer)

    def vocabulary(self) -> Vocabulary:
        """What grammars are compiled for."""
        tokenizer = self.tokenizer
        encode = partial(tokenizer.encode, add_special_tokens=False)
        return Vocabulary(
            self.files.config.vocab_size,
            tokenizer.token_bytes,
            tokenizer.special_ids,
            self.eos_ids,
            encode,
        )


def load_text(settings: ModelSettings, dtype: torch.dtype, report: Report) -> ModelText:
    """Finds a model's files, and reads what is about text.

    Args:
        dtype: That a GGUF file is converted to.

    Raises:
        StartupError: there is no such model, or it can't be read.
    """
    files = locate_target(settings, dtype, report)
    said = read_sampling(files.folder, settings.model, settings.generation_config)
    hf_tokenizer = load_hf_tokenizer(files.folder)
    name = model_name(settings.model)
    return ModelText(
        name=name,
        files=files,
        tokenizer=from_hf(hf_tokenizer),
        chat_template=ChatTemplate(hf_tokenizer, name),
        default_sampling=SamplingDefaults(**said),  # pyright: ignore[reportArgumentType]  # top_k is whole
    )
