"""What `glidecape generate --trace` prints of a step."""

from rich.console import Console

from server.cli.step_tree import step_tree
from server.engine.outputs import StepTrace, TracedNode

BYTES = {1: b" the", 2: b" sky", 3: b"\n", 4: b" sea", 5: b"\xff", 6: b" is"}


def drawn(trace: StepTrace, token_ids: tuple[int, ...]) -> str:
    console = Console(width=80, color_system=None)
    with console.capture() as capture:
        console.print(step_tree(7, trace, token_ids, BYTES.__getitem__))
    return capture.get()


def test_the_accepted_path_ends_with_the_models_own_token() -> None:
    nodes = (
        TracedNode(2, parent=0, is_leaf=False, source="draft", confidence=0.625),
        TracedNode(3, parent=1, is_leaf=False, source="draft", confidence=0.25),
        TracedNode(4, parent=0, is_leaf=True, source="draft", confidence=0.125),
        TracedNode(5, parent=1, is_leaf=True, source="draft", confidence=None),
    )
    trace = StepTrace(1, nodes, (1,), "draft", draft_seconds=0.0003, verify_seconds=0.004)
    assert drawn(trace, (2, 6)) == (
        "step 7: 4 proposed by draft, 1 accepted · draft 0.3 ms · verify 4.0 ms\n"
        '└── " the"\n'
        '    ├── ✓ " sky" 62%\n'
        '    │   ├── "\\n" 25%\n'
        '    │   ├── "\ufffd" leaf\n'
        '    │   └── " is" the model\'s own\n'
        '    └── " sea" 12% leaf\n'
    )


def test_a_plain_step_has_the_models_own_token_alone() -> None:
    assert drawn(StepTrace(1, (), (), None, verify_seconds=0.003), (4,)) == (
        "step 7: 0 proposed, 0 accepted · draft 0.0 ms · verify 3.0 ms\n"
        '└── " the"\n'
        '    └── " sea" the model\'s own\n'
    )


def test_a_path_cut_by_the_end_has_no_own_token() -> None:
    nodes = (TracedNode(2, parent=0, is_leaf=False, source="draft", confidence=1.0),)
    assert drawn(StepTrace(1, nodes, (1,), "draft"), (2,)).endswith('✓ " sky" 100%\n')
