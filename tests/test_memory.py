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
