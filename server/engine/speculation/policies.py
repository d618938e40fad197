"""Depths and widths of the policies whose shape is fixed.

| policy | proposal |
|---|---|
| off   | the root alone: plain decoding |
| chain | the draft's greedy chain |
| cape  | the chain, and alternatives beside tokens the draft is unsure of (`cape.py`) |
| beam  | the tree of a beam search: the paper's baseline |
| auto  | the nodes that are worth their cost on this machine (`auto.py`) |
"""

from dataclasses import dataclass, field

from server.engine.speculation.cape import CapeConfig


@dataclass(frozen=True, slots=True)
class PolicyConfig:
    """The paper's depths and widths by default."""

    chain_depth: int = 5
    cape_depth: int = 4
    beam_depth: int = 4
    beam_width: int = 4
    cape: CapeConfig = field(default_factory=CapeConfig)
