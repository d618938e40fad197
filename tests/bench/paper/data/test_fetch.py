"""Fetching the evaluation sets, from a stand-in for their homes on this machine."""

import json
import re
import threading
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from bench.paper.data.fetch import SETS, PublicSet, digest_of, fetch_sets
from server.errors import CheckpointError
from tests.doubles import PlainTemplate
from tests.live import run_glidecape
from weights.train.text.prompts import read_prompts


def content(public: PublicSet) -> str:
    """Two prompts in the set's own form; some characters make it larger than others."""
    asked = [f"{public.name}: größer?\u2028", "second"]
    if public.name == "mt_bench":
        lines = [
            {"question_id": 81 + i, "category": "writing", "turns": [text, "and now?"]}
            for i, text in enumerate(asked)
        ]
        return "".join(json.dumps(line) + "\n" for line in lines)
    turns = [[{"role": "user", "content": text}] for text in asked]
    return json.dumps([{"id": "x", "conversation": turn} for turn in turns])


FILES = {f"/{public.path}": content(public) for public in SETS}
STANDING_IN = tuple(
    replace(public, digest=digest_of(list(public.read(public.name, content(public)))))
    for public in SETS
)


@contextmanager
def stand_in(files: Mapping[str, str]) -> Generator[tuple[str, list[str]]]:
    """-> its URL, and the paths it is asked for; others are 404."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            body = files.get(self.path, "").encode()
            self.send_response(200 if body else 404)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Quiet."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", asked
        finally:
            server.shutdown()
            thread.join()


def test_all_five_are_written_as_eval_reads_them(tmp_path: Path) -> None:
    said: list[str] = []
    with stand_in(FILES) as (home, asked):
        fetch_sets(tmp_path / "data", f"{home}/", said.append, STANDING_IN)
        assert asked == list(FILES)
        fetch_sets(tmp_path / "data", home, said.append, STANDING_IN)
        assert len(asked) == len(FILES)  # nothing is fetched twice
    names = ["gsm8k", "finance_alpaca", "spider", "code_search_python", "mt_bench"]
    assert [public.name for public in SETS] == names
    for name in names:
        path = tmp_path / "data" / f"{name}.jsonl"
        prompts = list(read_prompts(path, PlainTemplate()))
        assert len(prompts) == 2
        first = json.loads(path.read_text().split("\n")[0])
        assert first["messages"] == [{"role": "user", "content": f"{name}: größer?\u2028"}]
    assert '"id": "mt_bench-81"' in (tmp_path / "data" / "mt_bench.jsonl").read_text()
    assert said[0] == f"{tmp_path / 'data' / 'gsm8k.jsonl'}: 2 prompts"
    assert said[5].endswith("gsm8k.jsonl: is there")


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        (None, "can't be fetched: .*404"),
        ("<html>", "is no set of prompts"),
        ('{"a": 1}', "is no set of prompts"),
        ("[" * 100_000, "is no set of prompts"),
        ('[{"conversation": []}]', "is no set of prompts"),
        (FILES[f"/{SETS[0].path}"].replace("second", "other"), "has other prompts than README's"),
        ("x" * (2**24 + 1), "is no set of prompts"),
    ],
)
def test_what_is_not_the_set_is_refused_and_not_written(
    changed: str | None, reason: str, tmp_path: Path
) -> None:
    first = f"/{SETS[0].path}"
    files = {path: text for path, text in FILES.items() if path != first}
    with stand_in(files | ({first: changed} if changed else {})) as (home, _):
        with pytest.raises(CheckpointError, match=f"{re.escape(home)}.*{reason}"):
            fetch_sets(tmp_path, home, print, STANDING_IN)
    assert list(tmp_path.iterdir()) == []


def test_the_command(tmp_path: Path) -> None:
    """The stand-in can't have the real prompts: the command asks it, and says they are others."""
    with stand_in(FILES) as (home, asked):
        done = run_glidecape("data", str(tmp_path / "data"), "--home", home)
    assert asked == [f"/{SETS[0].path}"]
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1 and "has other prompts" in done.stderr
    unreachable = run_glidecape("data", str(tmp_path / "data"), "--home", home)
    assert unreachable.returncode == 2
    assert "can't be fetched" in unreachable.stderr and "Traceback" not in unreachable.stderr
