"""What holds for all tests: where and in how many threads tensors are computed, patience, and the
order of the files."""

import inspect
import os
from collections import Counter
from collections.abc import Sequence

import httpx
import pytest
import torch

if not torch.cuda.is_available():
    # Read when a kernel is declared; only tests that want it take Triton's kernels on a CPU.
    os.environ["TRITON_INTERPRET"] = "1"

# Tiny tensors gain nothing from threads, and parallel test workers would fight over the cores.
torch.set_num_threads(1)

# httpx waits for 5 seconds by default, which a busy machine takes now and then.
_patience = inspect.signature(httpx.Client).parameters["timeout"].default
_patience.connect = _patience.read = _patience.write = _patience.pool = 60.0

collect_ignore = ["other_clients"]
"""Need environments of their own, in which `make` runs them."""

LONGEST = (
    "tests/kernels/test_sanitizers.py",
    "tests/kernels/triton/test_engine.py",
    "tests/engine/grammar/regular/test_syntax.py",
    "tests/engine/step/device/test_exactness.py",
    "tests/documents/test_commands.py",
    "tests/replicas",
    "tests/parallel/test_equality.py",
    "tests/parallel/test_serving.py",
    "tests/bench/test_exactness.py",
    "tests/serving/test_graph_serving.py",
    "tests/browser",
    "tests/docker",
    "tests/weights/train",
    "tests/kernels",
    "tests/serving",
    "tests/bench",
    "tests/engine",
)
"""Files and folders that take longest come first, so that no worker has a long one alone at the
end. Within a file the order stays as it is."""


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_node_collection_finished(ids: Sequence[str]) -> None:
    """xdist knows tests by their ids, and runs one of several that have the same."""
    same = [name for name, count in Counter(ids).items() if count > 1]
    if same:
        raise pytest.UsageError(f"several tests have the same id: {', '.join(same)}")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: _place(item.nodeid))


def _place(nodeid: str) -> int:
    return next((i for i, path in enumerate(LONGEST) if nodeid.startswith(path)), len(LONGEST))
