"""The real default model behind a live server: the official SDK, plain HTTP, clients that leave."""

import asyncio
import json
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator

import httpx
import pytest
from openai import AsyncOpenAI, BadRequestError, NotFoundError, OpenAI
from openai.types.chat import ChatCompletionMessageParam

from server.config import DEFAULT_MODEL
from server.kernels.cpu.library import native_library
from tests.live import LiveServer, run_glidecape, serve

pytestmark = pytest.mark.real_model

QUESTION: list[ChatCompletionMessageParam] = [
    {"role": "user", "content": "What is the capital of France?"}
]


@pytest.fixture(scope="module")
def server() -> Iterator[LiveServer]:
    with serve(num_threads=2) as running:
        yield running


@pytest.fixture
def client(server: LiveServer) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as sdk:
        yield sdk


def eventually(condition: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


def test_the_announced_curl_command_streams_an_answer(server: LiveServer) -> None:
    command = server.announcement[server.announcement.index("curl ") :]
    body = command.replace('"stream":true', '"stream":true,"max_tokens":4')
    done = subprocess.run(
        ["bash", "-c", body], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.startswith("data: {")
    assert done.stdout.rstrip().endswith("data: [DONE]")
    assert server.url in command


def test_chat_answers_the_question_streaming_and_not(client: OpenAI) -> None:
    whole = client.chat.completions.create(
        model=DEFAULT_MODEL, messages=QUESTION, temperature=0, max_tokens=32
    )
    assert "Paris" in (whole.choices[0].message.content or "")
    assert whole.choices[0].finish_reason == "stop"
    stream = client.chat.completions.create(
        model=DEFAULT_MODEL, messages=QUESTION, temperature=0, max_tokens=32, stream=True,
        stream_options={"include_usage": True},
    )  # fmt: skip
    chunks = list(stream)
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == whole.choices[0].message.content
    assert chunks[-1].usage is not None
    assert whole.usage is not None
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens


def test_completions_continue_a_text(client: OpenAI) -> None:
    answer = client.completions.create(
        model=DEFAULT_MODEL, prompt="1, 2, 3, 4, 5,", temperature=0, max_tokens=8, logprobs=1
    )
    assert answer.choices[0].text.startswith(" 6, 7")
    assert answer.choices[0].logprobs is not None
    assert len(answer.choices[0].logprobs.tokens or ()) == 8


def test_a_seeded_sample_repeats_and_another_seed_differs(client: OpenAI) -> None:
    def sample(seed: int) -> str:
        answer = client.chat.completions.create(
            model=DEFAULT_MODEL, messages=QUESTION, seed=seed, max_tokens=24, temperature=1.2
        )
        return answer.choices[0].message.content or ""

    assert sample(1) == sample(1)
    assert sample(1) != sample(2)


@pytest.mark.skipif(
    native_library() is None, reason="only the native kernels make bfloat16 rows independent"
)
async def test_sixteen_at_once_get_what_each_gets_alone(server: LiveServer) -> None:
    """Greedy and seeded, bfloat16: the same texts alone, together, and from the prefix cache."""
    prompts = [f"Write one sentence about the number {n}." for n in range(16)]

    async with AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none") as sdk:

        async def ask(index: int) -> str | None:
            answer = await sdk.chat.completions.create(
                model=DEFAULT_MODEL,
                messages=[{"role": "user", "content": prompts[index]}],
                temperature=index % 2,
                seed=index,
                max_tokens=32,
            )
            return answer.choices[0].message.content

        together = await asyncio.gather(*(ask(i) for i in range(16)))
        alone = [await ask(i) for i in range(16)]
    assert together == alone
    assert len(set(alone)) == 16


def test_a_repeated_prompt_comes_from_the_cache(client: OpenAI) -> None:
    text = "Tell me about rivers. " * 12
    counts = list[int]()
    for _ in range(2):
        answer = client.chat.completions.create(
            model=DEFAULT_MODEL, messages=[{"role": "user", "content": text}], max_tokens=1
        )
        assert answer.usage is not None
        assert answer.usage.prompt_tokens_details is not None
        counts.append(answer.usage.prompt_tokens_details.cached_tokens or 0)
    assert counts[1] > counts[0]
    assert counts[1] % 16 == 0


def test_gateways_learn_the_size_of_the_cache(server: LiveServer) -> None:
    announced = re.search(r"KV cache: .* = ([\d,]+) tokens", server.announcement)
    assert announced is not None
    num_blocks = int(announced[1].replace(",", "")) // 16
    labels = f'block_size="16",model_name="{DEFAULT_MODEL}",num_gpu_blocks="{num_blocks}"'
    assert server.metric("cache_config_info", labels) == 1


def test_a_client_that_leaves_frees_its_blocks(server: LiveServer) -> None:
    aborted = server.metric("request_success_total", 'finished_reason="abort"')
    body = {"messages": QUESTION, "stream": True, "ignore_eos": True, "max_tokens": 4000}
    with httpx.stream("POST", f"{server.url}/v1/chat/completions", json=body) as response:
        lines = response.iter_lines()
        for _ in range(5):
            next(lines)
        assert server.metric("kv_cache_usage_perc") > 0
        assert server.metric("num_requests_running") == 1
    eventually(lambda: server.metric("num_requests_running") == 0)
    eventually(lambda: server.metric("kv_cache_usage_perc") == 0)
    ended = 'finished_reason="abort"'
    eventually(lambda: server.metric("request_success_total", ended) == aborted + 1)


def test_a_client_that_leaves_before_a_whole_answer_frees_its_blocks(server: LiveServer) -> None:
    body = {"messages": QUESTION, "ignore_eos": True, "max_tokens": 4000}
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{server.url}/v1/chat/completions", json=body, timeout=1.0)
    eventually(lambda: server.metric("num_requests_running") == 0)
    eventually(lambda: server.metric("kv_cache_usage_perc") == 0)


def test_the_default_model_is_sampled_as_its_authors_recommend(client: OpenAI) -> None:
    response = client.responses.create(model=DEFAULT_MODEL, input="Hi", max_output_tokens=16)
    assert (response.temperature, response.top_p) == (0.2, 0.9)


def test_errors_have_openais_shape(client: OpenAI) -> None:
    with pytest.raises(NotFoundError) as missing:
        client.chat.completions.create(model="gpt-4", messages=QUESTION)
    assert missing.value.code == "model_not_found"
    long: list[ChatCompletionMessageParam] = [{"role": "user", "content": "word " * 9000}]
    with pytest.raises(BadRequestError, match=r"8192 tokens.*9031") as refused:
        client.chat.completions.create(model=DEFAULT_MODEL, messages=long)
    assert refused.value.code == "context_length_exceeded"


def test_operations(server: LiveServer) -> None:
    assert httpx.get(f"{server.url}/health").status_code == 200
    assert httpx.get(f"{server.url}/ready").status_code == 200
    assert httpx.get(f"{server.url}/version").json()["version"]
    (model,) = httpx.get(f"{server.url}/v1/models").json()["data"]
    assert model["id"] == DEFAULT_MODEL
    assert re.search(r"KV cache: \d+ MiB = [\d,]+ tokens", server.announcement)


def test_sigterm_finishes_open_streams_and_ends_the_server() -> None:
    names = ["--served-model-name", "mine", "--served-model-name", "ours"]
    with serve(*names) as running:
        listed = httpx.get(f"{running.url}/v1/models").json()["data"]
        assert [model["id"] for model in listed] == ["mine", "ours"]
        assert httpx.get(f"{running.url}/v1/models/{DEFAULT_MODEL}").json()["root"] == "mine"
        body = {
            "model": "default",
            "messages": QUESTION,
            "stream": True,
            "ignore_eos": True,
            "max_tokens": 60,
        }
        with httpx.stream("POST", f"{running.url}/v1/chat/completions", json=body) as response:
            lines = response.iter_lines()
            next(lines)
            running.process.send_signal(signal.SIGTERM)
            rest = [line for line in lines if line]
        assert rest[-1] == "data: [DONE]"
        assert (
            json.loads(rest[-2].removeprefix("data: "))["choices"][0]["finish_reason"] == "length"
        )
        assert running.process.wait(timeout=60) == 0


def test_the_chat_command_talks_to_the_server(server: LiveServer) -> None:
    talk = "What is the capital of France?\nAnd of Italy?\n/new\n/quit\n"
    done = run_glidecape("chat", "--url", server.url, "--temperature", "0", stdin=talk)
    assert done.returncode == 0
    assert "Paris" in done.stdout
    assert "Rome" in done.stdout
    # Of each answer; tokens per step only where something was proposed.
    assert len(re.findall(r" tokens/s(?!tep)", done.stderr)) == 2
