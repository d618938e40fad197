"""Every command that README and docs show, run as a newcomer would: in a process of its own, in its
shortest form. A command without an entry below fails the test, as does an entry that no page shows.

docs/log.md and its archive are left out: their commands are of the day that they stand under. Those
with curl in docs/api.md are run by tests/documents/test_api_examples.py.
"""

import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from tests.live import GLIDECAPE, run_glidecape, serve
from tests.parallel.drafts import write_draft
from tests.weights.foreign_drafts import authors_tensors, write_authors, write_target
from tests.weights.train.checkpoints import write_checkpoint

ROOT = Path(__file__).parents[2]
PAGES = (
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *(p for p in (ROOT / "docs").glob("*.md") if not p.name.startswith("log")),
)
_PROGRAM = r"(?:[A-Z_]+=\S+ )*(?:glidecape|python|pip|make|docker)\b"
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_INDENTED = re.compile(rf"^    ({_PROGRAM}(?: .*)?)$", re.MULTILINE)
_FENCED = re.compile(rf"^({_PROGRAM}(?: .*)?)$", re.MULTILINE)
_SPAN = re.compile(rf"`({_PROGRAM}(?:\s[^`]*)?)`")


@dataclass(frozen=True, slots=True)
class Form:
    """How a documented command is run here, in a folder with a tiny random model named `tiny`."""

    command: str
    """Has every option of the documented command."""
    says: str
    """A regular expression, found in what it prints."""
    exit_code: int = 0


FORMS = {
    "generate": Form(
        'glidecape generate "Why?" --trace --max-tokens 2', r"[12] tokens?, first after"
    ),
    "bench": Form("glidecape bench --new-tokens 8 --rounds 1", '"policies": {"off"'),
    "peers": Form(
        f"glidecape bench peers --peers-python {sys.executable} --new-tokens 2 --rounds 1 "
        "--streams 1 --long-prompt 0 --prompts FILE.jsonl --peer transformers",
        r'"tok_s": {"transformers".*"glidecape, plain".*"glidecape".*"failures": {}',
    ),
    "perplexity": Form(
        f"python -m bench.perplexity TEXT --prompts FILE.jsonl --peers-python {sys.executable} "
        "--tokens 20 --window 10 --answers 1 --answer-tokens 2",
        "perplexity",
    ),
    "backends": Form(
        "python -m bench.backends --model tiny --streams 1 --new-tokens 2 --rounds 1 "
        "--dtype float32",
        '"transformers. code to native": {"1 stream": .*"failures": {}|'
        '"failures": {}.*"transformers. code to native"',
    ),
    "exactness": Form(
        "python -m bench.exactness FILE.jsonl --limit 1 --new-tokens 2 --at-once 1 "
        "--draft drafts/NAME --policy off --policy auto",
        '"greedy auto at 1 differ": 0',
    ),
    "scaling": Form(
        "python -m bench.scaling --replicas 1 --replicas 2 --conversations 20 --rate 0.5 "
        "--system-tokens 150 --user-tokens 20 --answer-tokens 30 --think-seconds 3 "
        "--prefill-rate 3000 --step-ms 3.9 --sequence-ms 0.064 --chunk-tokens 2048 "
        "--kv-tokens 8000",
        r'"replicas": 2, "router": "block prefix", "hit_rate": 0\.[5-9]',
    ),
    "soak": Form("python -m bench.soak --seconds 1 --at-once 4", '"differing": 0'),
    "gpu": Form(
        "python -m bench.gpu --minutes 0 --json found.json", "there is no GPU; --tiny", exit_code=2
    ),
    "train": Form(
        "glidecape train --target tiny --out drafts/new --tokens 500 --max-new-tokens 16 "
        "--minutes 0 --epochs 1 --draft-vocab-size 64",
        r"glidecape serve --model tiny --draft drafts/new",
    ),
    "train on text": Form(
        "glidecape train --target tiny --out drafts/wide --text drafts/NAME.work/text.jsonl "
        "--tokens 0 --minutes 0 --epochs 1 --draft-vocab-size 64",
        r"glidecape serve --model tiny --draft drafts/wide",
    ),
    "train further": Form(
        "glidecape train --target tiny --out drafts/mine --from-draft drafts/NAME "
        "--prompts FILE.jsonl --text drafts/NAME.work/text.jsonl --tokens 450 --minutes 0 "
        "--epochs 1",
        r"glidecape serve --model tiny --draft drafts/mine",
    ),
    "eval": Form(
        "glidecape eval --draft drafts/NAME --data FILE.jsonl --data mt_bench.jsonl --card "
        "--trained-on drafts/NAME.work/text.jsonl --methods chain --tokens 4",
        r"wrote \S*drafts/NAME/card.md",
    ),
    "eval methods": Form(
        "glidecape eval FILE.jsonl --draft drafts/NAME --limit 1 --methods chain,cape,auto "
        "--tokens 4 --out short",
        r"wrote short/eval.md",
    ),
    "eval drawn": Form(
        "glidecape eval FILE.jsonl --draft drafts/NAME --limit 1 --methods auto --temperature 0.2 "
        "--top-p 0.9 --tokens 4 --out drawn",
        r"wrote drawn/eval.md",
    ),
    "data": Form("glidecape data --home http://127.0.0.1:9", "can't be fetched", exit_code=2),
    "convert": Form("glidecape convert authors out --target vicuna", "use it with --draft out"),
    "serve --help": Form("glidecape serve --help", "--max-num-seqs"),
    "train --help": Form("glidecape train --help", "--glimpse-layers"),
    "device cuda": Form(
        "glidecape serve --port 0 --device cuda --model tiny --draft drafts/NAME",
        "device='cuda': this machine has no usable GPU",
        exit_code=2,
    ),
}
"""By the name that `SHOWN` has."""

SERVED = "the server that `plain_server` starts"
OPTIONS = "the server that `test_a_server_with_every_documented_option` starts"
RANKS = "tests/parallel/test_serving.py"
REPLICAS = "tests/replicas/test_serving.py"
REPLICAS_BENCH = "tests/bench/test_replicas.py"
KEYS = "tests/cli/test_serve.py"
TARGET = "`make -n`, which needs no network: the programs behind it run in this file or elsewhere"
EXTRA = "an extra of pyproject.toml; nothing is installed by a test"
CONTAINER = "the files that it names; what they say is tested by tests/docker"

SHOWN = {
    "make": TARGET,
    "make serve": TARGET,
    "PORT=9000 MODEL=org/name make serve": TARGET,
    "make serve REPLICAS=2": TARGET,
    "make test": TARGET,
    "make dev": TARGET,
    "make test-fast": TARGET,
    "make soak": "soak",
    "make bench-peers": TARGET,
    "make check": TARGET,
    "make pictures": TARGET,
    "docker compose -f docker/compose.yml up": CONTAINER,
    "DEVICE=cuda docker compose -f docker/compose.yml -f docker/compose.cuda.yml up --build": (
        CONTAINER
    ),
    "docker build -t glidecape .": CONTAINER,
    "pip install 'glidecape[gpu]'": EXTRA,
    "pip install 'glidecape[otel]'": EXTRA,
    "pip install 'glidecape[ray]'": EXTRA,
    'pip install "glidecape[train]"': EXTRA,
    "glidecape serve --help": "serve --help",
    "glidecape train --help": "train --help",
    'glidecape generate "Why is the sky blue?"': "generate",
    "glidecape generate": "generate",
    "glidecape chat": SERVED,
    "glidecape bench": "bench",
    "glidecape bench peers": "peers",
    "glidecape bench peers --peers-python PATH --new-tokens 128 --prompts FILE.jsonl …": "peers",
    "glidecape bench peers --peers-python PATH --new-tokens 128 --rounds 5 --prompts FILE.jsonl …"
    ' --peer llama.cpp --peer "OpenVINO GenAI"': "peers",
    "glidecape train": "train",
    "glidecape train --target MODEL --out drafts/NAME": "train",
    "glidecape train --target MODEL --out drafts/wide --text drafts/NAME.work/text.jsonl"
    " --tokens 0": "train on text",
    "glidecape train --target MODEL --out drafts/mine --from-draft drafts/NAME"
    " --prompts FILE.jsonl --minutes 30": "train further",
    "glidecape train --target meta-llama/Meta-Llama-3-8B-Instruct --out drafts/llama3-8b"
    " --tokens 3M --minutes 60": "train",
    "glidecape eval": "eval",
    "glidecape eval --draft drafts/NAME --data FILE.jsonl": "eval",
    "glidecape eval --draft drafts/NAME --data FILE --card": "eval",
    "glidecape eval --draft drafts/NAME --data gsm8k.jsonl --data mt_bench.jsonl --trained-on"
    " drafts/NAME.work/text.jsonl": "eval",
    "glidecape eval FILE.jsonl … --limit 20 --methods chain,cape": "eval methods",
    "glidecape eval FILE.jsonl … --limit 20 --methods auto": "eval methods",
    "glidecape convert": "convert",
    "glidecape data": "data",
    "python -m bench.perplexity TEXT --prompts FILE.jsonl … --peers-python PATH": "perplexity",
    "python -m bench.backends": "backends",
    "python -m bench.backends --rounds 2 --new-tokens 48": "backends",
    "python -m bench.backends --dtype bfloat16 --rounds 2 --new-tokens 48": "backends",
    "python -m bench.replicas": REPLICAS_BENCH,
    "python -m bench.exactness FILE.jsonl … --limit 200 --policy off --policy auto": "exactness",
    "python -m bench.gpu --minutes 8 --json found.json": "gpu",
    "python -m bench.scaling": "scaling",
    "python -m bench.scaling --replicas 1 --replicas 4 --replicas 64 --conversations 10000"
    " --rate 0.5 --system-tokens 1500 --user-tokens 200 --answer-tokens 300 --think-seconds 30"
    " --prefill-rate 30000 --step-ms 3.9 --sequence-ms 0.064 --chunk-tokens 2048"
    " --kv-tokens 800000": "scaling",
    "glidecape serve": SERVED,
    "glidecape serve --model": SERVED,
    "glidecape serve --model MODEL --draft drafts/NAME": SERVED,
    "glidecape serve --api-key-file keys.txt": OPTIONS,
    "GLIDECAPE_API_KEY=key1,key2 glidecape serve": KEYS,
    "glidecape serve --api-key key1 --api-key key2": OPTIONS,
    "glidecape serve --cors-origins https://app.example.com,http://localhost:3000": OPTIONS,
    "glidecape serve --ssl-certfile cert.pem --ssl-keyfile key.pem": OPTIONS,
    "glidecape serve --otlp-endpoint http://127.0.0.1:4318": OPTIONS,
    "glidecape serve --model MODEL --draft DRAFT --tensor-parallel-size 2": RANKS,
    "glidecape serve --replicas 2": REPLICAS,
    "RAY_ADDRESS=HOST:6379 glidecape serve --replicas 8": REPLICAS,
    "glidecape serve --device cuda --model org/name --draft drafts/NAME": "device cuda",
}
"""Every documented command -> the name of its form, or how else it is run."""


def shown_commands() -> Iterator[str]:
    """Commands of all pages, without comments; a comment `# or: COMMAND` counts as one too."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        shells = "".join(body for kind, body in _FENCE.findall(text) if kind != "python")
        text = _FENCE.sub("", text)
        for line in [*_INDENTED.findall(text), *_FENCED.findall(shells)]:
            command, _, comment = re.sub(r"  +#", "\0", line).partition("\0")
            yield command.strip()
            if comment.startswith(" or: "):
                yield comment.removeprefix(" or: ").strip()
        yield from (" ".join(command.split()) for command in _SPAN.findall(text))


def test_every_shown_command_has_an_entry() -> None:
    assert set(shown_commands()) == set(SHOWN)


def test_a_command_is_found_wherever_it_stands() -> None:
    found = set(shown_commands())
    assert "glidecape bench" in found  # a line of a block
    assert "PORT=9000 MODEL=org/name make serve" in found  # a span
    assert any(command.startswith("glidecape bench peers --peers") for command in found)  # or:


@pytest.mark.parametrize(("shown", "name"), [(s, n) for s, n in SHOWN.items() if n in FORMS])
def test_a_form_has_the_options_that_are_shown(shown: str, name: str) -> None:
    options = set(re.findall(r"--[a-z-]+", shown))
    assert options <= {*shlex.split(FORMS[name].command)}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with what the commands name."""
    folder = tmp_path_factory.mktemp("documented")
    config = json.loads((write_checkpoint(folder / "tiny") / "config.json").read_text())
    config["max_position_embeddings"] = 1024  # bench.soak asks for 768
    (folder / "tiny" / "config.json").write_text(json.dumps(config))
    write_draft(folder / "drafts" / "NAME")
    (folder / "drafts" / "NAME.work").mkdir()
    text = [{"prompt_ids": [104, 105], "response_ids": [97 + (i * j) % 16 for j in range(40)]}
            for i in range(12)]  # fmt: skip
    chat = {"messages": [{"role": "user", "content": "Hi!"}]}
    for name, lines in (
        ("drafts/NAME.work/text.jsonl", text),
        ("FILE.jsonl", [chat]),
        ("mt_bench.jsonl", [chat]),
    ):
        (folder / name).write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    (folder / "TEXT").write_text("a text of more than twenty bytes")
    (folder / "authors").mkdir()
    write_authors(folder / "authors", authors_tensors())
    write_target(folder / "vicuna")
    return folder


@pytest.fixture(scope="module")
def environment(place: Path) -> dict[str, str]:
    """With the tiny model in the default one's place, and nothing kept outside of the folder."""
    return os.environ | {
        "GLIDECAPE_MODEL": "tiny",
        "GLIDECAPE_DTYPE": "float32",
        "GLIDECAPE_CACHE_DIR": str(place / "cache"),
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "COLUMNS": "200",
    }


@pytest.mark.parametrize("name", FORMS)
def test_it_runs(name: str, place: Path, environment: dict[str, str]) -> None:
    form = FORMS[name]
    program, *arguments = shlex.split(form.command)
    command = [*GLIDECAPE, *arguments] if program == "glidecape" else [sys.executable, *arguments]
    done = subprocess.run(
        command, cwd=place, env=environment, capture_output=True, text=True, timeout=300,
        check=False,
    )  # fmt: skip
    printed = done.stdout + done.stderr
    assert done.returncode == form.exit_code, printed
    assert re.search(form.says, printed), printed
    assert "Traceback" not in printed


@pytest.fixture(scope="module")
def in_place(place: Path, environment: dict[str, str]) -> Iterator[None]:
    """For what `tests.live` starts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        for name, value in environment.items():
            patch.setenv(name, value)
        yield


@pytest.fixture(scope="module")
def plain_server(in_place: None) -> Iterator[str]:
    """`glidecape serve --model MODEL --draft drafts/NAME`; its URL."""
    with serve("--model", "tiny", "--draft", "drafts/NAME") as server:
        yield server.url


def test_the_question_of_readme(plain_server: str) -> None:
    command = re.search(r"^    (curl localhost:8000.*\\\n.*)$", PAGES[0].read_text(), re.MULTILINE)
    assert command is not None
    here = (
        command[1]
        .replace("localhost:8000", plain_server)
        .replace('"stream"', '"max_tokens":4,"stream"')
    )
    done = subprocess.run(
        ["bash", "-c", here], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.rstrip().endswith("data: [DONE]")


def test_a_chat_with_a_running_server(plain_server: str, in_place: None) -> None:
    options = "--max-tokens", "4", "--temperature", "0"  # a random model may end at once otherwise
    done = run_glidecape("chat", "--url", plain_server, *options, stdin="Hi!\n/quit\n")
    assert done.returncode == 0
    assert "4 tokens, first after" in done.stderr


def test_a_server_with_every_documented_option(place: Path, in_place: None) -> None:
    """Options of commands that differ in nothing else, all at once: each is answered for."""
    _write_certificate(place)
    (place / "keys.txt").write_text("key3  # a comment\n")
    shown = [shlex.split(command) for command, how in SHOWN.items() if how == OPTIONS]
    options = [part for command in shown for part in command[command.index("serve") + 1 :]]
    assert "--ssl-certfile" in options
    with serve(*options) as server, httpx.Client(base_url=server.url, verify=False) as client:
        assert client.get("/v1/models").status_code == 401
        for key in ("key1", "key2", "key3"):
            headers = {"authorization": f"Bearer {key}", "origin": "https://app.example.com"}
            answer = client.get("/v1/models", headers=headers)
            assert answer.status_code == 200
            assert answer.headers["access-control-allow-origin"] == "https://app.example.com"


def _write_certificate(folder: Path) -> None:
    subprocess.run(
        [*"openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost".split(),
         "-keyout", folder / "key.pem", "-out", folder / "cert.pem"],
        check=True, capture_output=True,
    )  # fmt: skip


def test_make_lets_python_keep_bytecode() -> None:
    """Else each process compiles anew what it imports: seconds for torch."""
    rule = "shown: ; @echo asked not to: $$PYTHONDONTWRITEBYTECODE"
    environment = os.environ | {"PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        ["make", "--no-print-directory", "--eval", rule, "shown"], cwd=ROOT, env=environment,
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert done.stdout.strip() == "asked not to:"


@pytest.mark.parametrize("shown", [command for command, how in SHOWN.items() if how == TARGET])
def test_make(shown: str) -> None:
    """Its recipe can be read, and a variable before it arrives in it."""
    variables = [part for part in shown.split() if "=" in part]
    environment = os.environ | dict(part.split("=", 1) for part in variables)
    command = shown.split()[len(variables) :]
    done = subprocess.run(
        ["make", "--dry-run", *command[1:]], cwd=ROOT, env=environment, capture_output=True,
        text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for part in variables:
        assert part.partition("=")[2] in done.stdout


@pytest.mark.parametrize("shown", [command for command, how in SHOWN.items() if how == EXTRA])
def test_extras(shown: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extra = re.search(r"glidecape\[(\w+)\]", shown)
    assert extra is not None
    assert project["optional-dependencies"][extra[1]]


@pytest.mark.parametrize("shown", [command for command, how in SHOWN.items() if how == CONTAINER])
def test_containers(shown: str) -> None:
    files = re.findall(r"-f (\S+)", shown) or ["Dockerfile"]
    assert all((ROOT / file).is_file() for file in files)
