"""What the HTTP server costs: ours (h11, with limits) beside uvicorn's with httptools, which is
faster and has faults that a server in the open can't have (see `server/api/http/connection.py`).

python -m bench.http_servers [--streams 1,8,32] [--rounds 5]   ->   a table, then one JSON line

Both serve the same app at the same time on two ports, and are asked in turn, in another order in
each round: what the machine does beside them meets both alike. Needs httptools, which comes
with the development packages.
"""

import argparse
import asyncio
import json
from statistics import median
from typing import Any

from fastapi import FastAPI

from bench.common.served import Served, Server
from server.build import build_app
from server.cli.terminal import report
from server.config import ServerSettings

NAMES = ("h11", "httptools")


async def measure(
    app: FastAPI, streams: int, new_tokens: int, rounds: int
) -> dict[str, list[Served]]:
    """Measures both servers in turn; returns each one's runs, one per round."""
    runs: dict[str, list[Served]] = {name: [] for name in NAMES}
    async with Server(app) as ours, Server(app, {"http": "httptools"}, starts_app=False) as other:
        servers = dict(zip(NAMES, (ours, other), strict=True))
        for server in servers.values():  # the first answer of all compiles the chat template
            await server.measure(1, 8)
        for number in range(rounds):
            for name in NAMES if number % 2 else reversed(NAMES):
                runs[name].append(await servers[name].measure(streams, new_tokens))
    return runs


def figures(streams: int, runs: dict[str, list[Served]]) -> dict[str, Any]:
    found: dict[str, Any] = {"streams": streams}
    for name, of_server in runs.items():
        rates = [run.tokens_per_second for run in of_server]
        # CPU time of the API's thread for each token that was sent.
        costs = [1e6 * run.api_share / run.tokens_per_second for run in of_server]
        found[name] = {
            "tokens_per_second": median(rates),
            "least": min(rates),
            "most": max(rates),
            "api_us_per_token": median(costs),
            "cpu_share_per_stream": median(run.api_share for run in of_server) / streams,
        }
    ours, other = found["h11"], found["httptools"]
    found["cost"] = 1 - ours["tokens_per_second"] / other["tokens_per_second"]
    return found


def show(found: dict[str, Any]) -> None:
    for name in NAMES:
        row = found[name]
        print(
            f"{found['streams']:>4} streams  {name:<10}{row['tokens_per_second']:8.1f} tokens/s"
            f" [{row['least']:.1f}, {row['most']:.1f}]"
            f"{row['api_us_per_token']:8.1f} us of the API's thread a token"
            f"{100 * row['cpu_share_per_stream']:7.2f} % of a core a stream"
        )
    print(f"{'':>13}h11 costs {100 * found['cost']:.1f} % of the tokens/s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--streams", default="1,8,32")
    parser.add_argument("--new-tokens", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    every: list[dict[str, Any]] = []
    for streams in map(int, options.streams.split(",")):
        # A new one each time: an engine that has stopped doesn't start again.
        app, _ = build_app(ServerSettings(), report)
        runs = asyncio.run(measure(app, streams, options.new_tokens, options.rounds))
        every.append(figures(streams, runs))
        show(every[-1])
    print(json.dumps(every))


if __name__ == "__main__":
    main()
