"""What encoding a long text leaves behind goes back to the system."""

import subprocess
import sys

import pytest

_ENCODE = """
import threading
from tests.doubles import byte_tokenizer

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096

tokenizer = byte_tokenizer()
text = "a b" * 500_000
before = resident()
# In a thread, as the server does: glibc then takes memory from an arena of the thread's own.
thread = threading.Thread(target=lambda: len(tokenizer.encode(text, add_special_tokens=False)))
thread.start()
thread.join()
print(resident() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="/proc and glibc")
def test_a_long_text_leaves_no_memory_behind() -> None:
    """Without it: over 100 bytes for each of its tokens."""
    done = subprocess.run(
        [sys.executable, "-c", _ENCODE], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) < 40e6


_FREEZE = """
import gc
from server.memory import freeze_loaded

class Ring:
    def __init__(self):
        self.own = self

kept, _ = [Ring() for _ in range(1000)], [Ring() for _ in range(1000)]
del _
freeze_loaded()
rings = [each for each in gc.get_objects() if isinstance(each, Ring)]
print(len(rings), gc.get_freeze_count() > 1000)
rings.append(Ring())
print(sum(isinstance(each, Ring) for each in gc.get_objects()))
"""


def test_what_is_loaded_is_looked_through_no_more() -> None:
    """What nobody holds is freed before; what comes later is seen."""
    done = subprocess.run(
        [sys.executable, "-c", _FREEZE], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["0", "True", "1"]
