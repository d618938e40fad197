"""The token tree a sequence contributes to a step. Pure: ints only.

Node 0 is the *root*: the last known token, whose KV is not written yet. The *trunk* is the draft's
own chain below it. *Leaves* are alternatives to trunk tokens and are never extended. A comb for the
trunk "a b" with leaves x beside a, and y, z beside b:

    node     0     1  2  3  4  5
    token    root  a  b  x  y  z
    parent   -     0  1  0  1  1
    depth    0     1  2  1  2  2          position = that of the root + depth
    sees     0     01 012 03 014 015

An accepted trunk lies in its final slots already; an accepted leaf moves by one copy.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

ROOT = 0


@dataclass(frozen=True, slots=True)
class TokenTree:
    """Nodes in an order that puts parents before children.

    Raises:
        ValueError: a parent comes after its child, or two siblings have the same token.
    """

    token_ids: tuple[int, ...]
    parents: tuple[int, ...]
    """Parents of nodes 1 and up: `parents[i - 1]` is node i's. Node 0 has none."""
    num_trunk: int = 0
    """Nodes 1 … num_trunk are the trunk."""
    is_comb: bool = False
    """Whether all other nodes are leaves beside the trunk. In a beam's tree nodes have no such
    roles."""
    depths: tuple[int, ...] = field(init=False)
    _children: dict[tuple[int, int], int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        depths, children = [0], dict[tuple[int, int], int]()
        for node, parent in enumerate(self.parents, start=1):
            key = (parent, self.token_ids[node])
            if not 0 <= parent < node or key in children:
                raise ValueError(f"node {node} is misplaced or a duplicate of its sibling")
            depths.append(depths[parent] + 1)
            children[key] = node
        object.__setattr__(self, "depths", tuple(depths))
        object.__setattr__(self, "_children", children)

    def __len__(self) -> int:
        return len(self.token_ids)

    @property
    def is_chain(self) -> bool:
        return self.num_trunk == len(self.parents)

    def is_leaf(self, node: int) -> bool:
        """Whether a node is an alternative to the trunk's token at its depth."""
        return self.is_comb and node > self.num_trunk

    def child(self, node: int, token_id: int) -> int | None:
        """The child of a node that has this token."""
        return self._children.get((node, token_id))

    def path(self, node: int) -> list[int]:
        """Nodes from the root to this one, both included."""
        path = [node]
        while path[-1] != ROOT:
            path.append(self.parents[path[-1] - 1])
        return path[::-1]


def lone_root(token_id: int) -> TokenTree:
    """Plain decoding as a tree."""
    return comb(token_id, (), ())


def comb(root: int, trunk: Sequence[int], leaves: Sequence[Sequence[int]]) -> TokenTree:
    """A trunk with leaves.

    Args:
        leaves: for each depth 1, 2 …, alternatives to the trunk's token there. One depth more than
            the trunk is long is allowed: leaves below the last trunk token.
    """
    token_ids, parents = [root, *trunk], list(range(len(trunk)))
    for depth, tokens in enumerate(leaves, start=1):
        for token_id in tokens:
            token_ids.append(token_id)
            parents.append(depth - 1)
    return TokenTree(tuple(token_ids), tuple(parents), num_trunk=len(trunk), is_comb=True)
