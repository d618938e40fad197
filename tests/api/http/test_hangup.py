"""SIGHUP: keys and certificates are read again, and nothing is cut. And a terminal that closes."""

import asyncio
import os
import pty
import re
import shutil
import signal
import ssl
import subprocess
from pathlib import Path

import httpx

from tests.api.harness import CHAT, chat_body, events
from tests.api.http.faulty import SECONDS, eventually, exit_code, faulty
from tests.api.http.faulty_server import COMMAND
from tests.certificates import make_certificate
from tests.live import LiveServer


def make_files(folder: Path) -> Path:
    folder.mkdir()
    make_certificate(folder / "cert.pem", folder / "key.pem")
    return folder


def install(files: Path, folder: Path) -> None:
    for name in ("cert.pem", "key.pem"):
        shutil.copyfile(files / name, folder / name)


async def hang_up(server: LiveServer, *told: str) -> None:
    """Returns when the log has all of it."""
    known = len(server.log)
    server.process.send_signal(signal.SIGHUP)
    await eventually(lambda: all(text in "".join(server.log[known:]) for text in told))


def shown(server: LiveServer) -> bytes:
    """The certificate that a new connection gets."""
    url = httpx.URL(server.url)
    pem = ssl.get_server_certificate((url.host, url.port or 443), timeout=SECONDS)
    return ssl.PEM_cert_to_DER_cert(pem)


def content(file: Path) -> bytes:
    return ssl.PEM_cert_to_DER_cert(file.read_text())


async def metrics(client: httpx.AsyncClient) -> str:
    return (await client.get("/metrics")).text


async def test_keys_and_certificates(tmp_path: Path) -> None:
    first, second = make_files(tmp_path / "first"), make_files(tmp_path / "second")
    used = tmp_path / "used"
    used.mkdir()
    install(first, used)
    keys = used / "keys.txt"
    keys.write_text("key-1")
    os.utime(keys, (1, 1))
    tls = ("--ssl-certfile", str(used / "cert.pem"), "--ssl-keyfile", str(used / "key.pem"))
    with faulty(*tls, "--api-key-file", str(keys)) as server:
        context = ssl.create_default_context(cafile=str(first / "cert.pem"))
        headers = {"authorization": "Bearer key-1"}
        async with httpx.AsyncClient(
            base_url=server.url, verify=context, headers=headers, timeout=SECONDS
        ) as client:
            body = chat_body(stream=True, max_tokens=300, ignore_eos=True)
            stream = asyncio.create_task(client.post(CHAT, json=body))
            while 'requests_running{model_name="tiny/model"} 1' not in await metrics(client):
                await asyncio.sleep(0.02)
            assert await asyncio.to_thread(shown, server) == content(first / "cert.pem")

            install(second, used)
            keys.write_text("key-2")
            await hang_up(server, "read the certificate", "read 1 API keys")
            assert await asyncio.to_thread(shown, server) == content(second / "cert.pem")

            # Of two files that don't fit each other neither is taken.
            shutil.copyfile(first / "key.pem", used / "key.pem")
            keys.write_text("no key at all")
            await hang_up(server, "the last certificate stays", "the last keys stay valid")
            assert await asyncio.to_thread(shown, server) == content(second / "cert.pem")

            answer = await stream
            assert answer.status_code == 200 and events(answer.text)[-1] == "[DONE]"
            assert '"finish_reason":"length"' in answer.text
        async with httpx.AsyncClient(
            base_url=server.url, verify=ssl.create_default_context(cafile=str(second / "cert.pem"))
        ) as client:
            for key, status in (("key-1", 401), ("key-2", 200)):
                headers = {"authorization": f"Bearer {key}"}
                response = await client.get("/v1/models", headers=headers, timeout=SECONDS)
                assert response.status_code == status
    assert exit_code(server) == 0
    assert "Traceback" not in "".join(server.log)


def test_a_terminal_that_closes_ends_the_server() -> None:
    """It is SIGHUP too, but nobody could stop the server there any more."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [*COMMAND, "--port", "0"], stdin=theirs, stderr=theirs, start_new_session=True
    )
    os.close(theirs)
    try:
        printed = b""
        while b"stream" not in printed:
            printed += os.read(ours, 4096)
        found = re.search(rb"http://[0-9.:]+", printed)
        assert found is not None
        assert httpx.get(f"{found[0].decode()}/health", timeout=SECONDS).status_code == 200
        os.close(ours)
        process.send_signal(signal.SIGHUP)
        assert process.wait(timeout=SECONDS) == 0
    finally:
        process.kill()
        process.wait()
