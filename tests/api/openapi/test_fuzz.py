"""Runs `fuzz.py`."""

import re
import subprocess
import sys
from pathlib import Path

from tests.api.harness import make_app
from tests.doubles import ScriptedEngine

FUZZ = Path(__file__).with_name("fuzz.py")


def test_every_operation_keeps_to_the_document() -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", FUZZ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stdout
    paths = make_app(ScriptedEngine([])).openapi()["paths"]
    num_operations = sum(len(operations) for operations in paths.values())
    assert re.search(rf"^{num_operations} passed", done.stdout, re.MULTILINE), done.stdout
