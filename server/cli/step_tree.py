"""A decoding step as a small tree, for terminals."""

import json
from collections.abc import Callable, Sequence

from rich.text import Text
from rich.tree import Tree

from server.engine.outputs import StepTrace, TracedNode


def step_tree(
    number: int, trace: StepTrace, token_ids: Sequence[int], token_bytes: Callable[[int], bytes]
) -> Tree:
    """What was proposed behind a step's root, with the draft's confidence; ✓ marks the accepted
    path, at whose end stands the target's own token.

    Args:
        token_ids: the step's new tokens.
    """
    accepted = set(trace.accepted)
    tree = Tree(Text(_headline(number, trace)))
    branches = {0: tree.add(_label(token_bytes(trace.root_token_id)))}
    for node, traced in enumerate(trace.nodes, start=1):
        label = _node_label(traced, node in accepted, token_bytes)
        branches[node] = branches[traced.parent].add(label)
    if len(token_ids) > len(trace.accepted):
        last = trace.accepted[-1] if trace.accepted else 0
        own = Text.assemble(_label(token_bytes(token_ids[-1])), " the model's own")
        branches[last].add(own)
    return tree


def _headline(number: int, trace: StepTrace) -> str:
    milliseconds = [
        f"{name} {1000 * seconds:.1f} ms"
        for name, seconds in (("draft", trace.draft_seconds), ("verify", trace.verify_seconds))
    ]
    source = f" by {trace.source}" if trace.source else ""
    proposed = f"{len(trace.nodes)} proposed{source}, {len(trace.accepted)} accepted"
    return f"step {number}: {proposed} · {' · '.join(milliseconds)}"


def _node_label(node: TracedNode, is_accepted: bool, token_bytes: Callable[[int], bytes]) -> Text:
    style = "" if is_accepted else "dim"
    label = Text.assemble("✓ " if is_accepted else "", _label(token_bytes(node.token_id)))
    if node.confidence is not None:
        label.append(f" {node.confidence:.0%}")
    if node.is_leaf:
        label.append(" leaf")
    label.stylize(style)
    return label


def _label(token: bytes) -> Text:
    """Quoted, so that spaces and line ends are seen; bytes that are no character as U+FFFD."""
    return Text(json.dumps(token.decode(errors="replace"), ensure_ascii=False))
