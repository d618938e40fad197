"""A worker that does what a job's text says: `spin SECONDS`, `sleep SECONDS`, `die`, anything."""

import os
import time
from multiprocessing.connection import Connection

from server.engine.grammar.compile.compiler import GrammarText
from server.engine.grammar.compile.worker import Compile, Proven


def main(handle: int) -> None:
    with Connection(handle) as server:
        server.recv()
        server.send("ready")
        while True:
            try:
                job: Compile = server.recv()
            except EOFError:
                return
            _do(*job.grammar.text.split())
            priority = os.getpriority(os.PRIO_PROCESS, 0)
            server.send(Proven(GrammarText("ebnf", f"{os.getpid()} {priority}"), 0.0))


def _do(verb: str, seconds: str = "0") -> None:
    if verb == "die":
        os._exit(1)
    if verb == "sleep":
        time.sleep(float(seconds))
    if verb == "spin":
        end = time.process_time() + float(seconds)
        while time.process_time() < end:
            pass
