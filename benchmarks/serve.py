"""The server under load: throughput against the encoder itself, latency at a given load, overload, and a peer.

    python benchmarks/serve.py                          # decant-mini, about four minutes
    python benchmarks/serve.py --seconds 60 --peer      # as reported; with sentence-transformers behind FastAPI

Server and peer run as processes of their own, one after the other, with the same number of threads. Load comes from an
open loop: requests are sent when they are due, whatever became of those before them, and latency counts from then.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np

from decant.embedder import Encoder
from decant.embedder.encoder import DEFAULT_MODEL
from decant.service.proto.decant.v1 import decant_pb2 as pb
from decant.service.proto.decant.v1 import decant_pb2_grpc as stubs

CORPUS = Path(__file__).parents[1] / "examples" / "corpus"
CLIENTS = 64
BATCH = 4


class Refused(Exception):
    """The server was full."""


@dataclass
class Load:
    """What became of requests: seconds of those answered and of those refused, and how many failed otherwise."""

    answered: list[float] = field(default_factory=list)
    refused: list[float] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)

    def line(self) -> str:
        """Percentiles in milliseconds."""
        text = f"{len(self.answered):6} answered  p50 {_ms(self.answered, 50)}  p95 {_ms(self.answered, 95)}"
        text += f"  p99 {_ms(self.answered, 99)}"
        if self.refused:
            text += f"   {len(self.refused)} refused  p50 {_ms(self.refused, 50)}  p99 {_ms(self.refused, 99)}"
        return text + (f"   FAILED {len(self.failed)}: {self.failed[0]}" if self.failed else "")


def passages(count: int) -> list[str]:
    """Texts of mixed lengths, the same every time: single words up to some 200 words."""
    chosen = random.Random(0)
    words = " ".join(path.read_text("utf-8") for path in sorted(CORPUS.glob("openstax/*/*.md"))).split()
    texts: list[str] = []
    for _ in range(count):
        start, length = chosen.randrange(len(words) - 200), min(200, 1 + int(chosen.lognormvariate(3.2, 1.0)))
        texts.append(" ".join(words[start : start + length]))
    return texts


def in_process(encoder: Encoder, texts: Sequence[str], seconds: float) -> tuple[float, float]:
    """Texts and tokens per second of `Encoder.encode`, handed 512 at a time."""
    encoder.encode(texts[:64])
    done = tokens = 0
    began = time.perf_counter()
    while (passed := time.perf_counter() - began) < seconds:
        made = encoder.encode(texts[done % 2048 : done % 2048 + 512])
        done, tokens = done + len(made), tokens + int(made.tokens.sum())
    return done / passed, tokens / passed


async def closed_loop(call: Callable[[int], Awaitable[None]], seconds: float, clients: int = CLIENTS) -> int:
    """Let clients ask again as soon as they are answered; return how many requests were."""
    end = time.perf_counter() + seconds
    counts = [0] * clients

    async def client(number: int) -> None:
        turn = number
        while time.perf_counter() < end:
            try:
                await call(turn)
            except (Refused, grpc.RpcError) as error:
                if isinstance(error, grpc.RpcError) and error.code() is not grpc.StatusCode.RESOURCE_EXHAUSTED:
                    raise
                await asyncio.sleep(0.5)
                continue
            if time.perf_counter() < end:
                counts[number] += 1
            turn += clients

    await asyncio.gather(*(client(number) for number in range(clients)))
    return sum(counts)


async def open_loop(call: Callable[[int], Awaitable[None]], rate: float, seconds: float) -> Load:
    """Send requests at random moments, `rate` a second on average."""
    chosen, load = random.Random(1), Load()
    began, due, number = time.perf_counter(), 0.0, 0
    running: set[asyncio.Task[None]] = set()

    async def one(number: int, due: float) -> None:
        try:
            await call(number)
            load.answered.append(time.perf_counter() - due)
        except grpc.RpcError as error:
            passed = time.perf_counter() - due
            if error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED:  # type: ignore[attr-defined]
                load.refused.append(passed)
            else:
                load.failed.append(str(error.code()))  # type: ignore[attr-defined]

    while due < seconds:
        await asyncio.sleep(max(0.0, began + due - time.perf_counter()))
        task = asyncio.create_task(one(number, began + due))
        running.add(task)
        task.add_done_callback(running.discard)
        due, number = due + chosen.expovariate(rate), number + 1
    await asyncio.gather(*running)
    return load


class Decant:
    """`decant serve` as a process."""

    def __init__(self, model: str) -> None:
        command = [sys.executable, "-m", "decant.service.cli", "serve", "--model", model, "--dtype", "float32"]
        command += ["--grpc-port", "0", "--http-port", "0", "--device", "cpu"]
        environment = {**os.environ, "DECANT_LOG_REQUESTS": "none", "DECANT_REQUEST_SECONDS": "300"}
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
        assert self.process.stderr is not None
        ready = next(json.loads(line) for line in self.process.stderr if '"ready"' in line)
        self.grpc_port, self.http_port = ready["grpc_port"], ready["http_port"]

    def memory_bytes(self) -> int:
        """Resident memory now."""
        pages = Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")

    def stop(self) -> None:
        """End it in order."""
        self.process.terminate()
        self.process.wait(60)


class Peer:
    """sentence-transformers behind FastAPI as a process."""

    def __init__(self, model: str, port: int) -> None:
        command = [sys.executable, "-m", "uvicorn", "st_fastapi:app", "--port", str(port), "--log-level", "error"]
        folder = Path(__file__).parent / "peers"
        self.process = subprocess.Popen(command, env={**os.environ, "MODEL": model}, cwd=folder)
        self.http_port = port
        while self.process.poll() is None:
            try:
                httpx.get(f"http://127.0.0.1:{port}/openapi.json")
                return
            except httpx.TransportError:
                time.sleep(0.2)
        raise SystemExit("the peer did not start")

    def stop(self) -> None:
        """End it, whatever it is doing."""
        self.process.kill()
        self.process.wait()


def http_call(client: httpx.AsyncClient, port: int, texts: Sequence[str]) -> Callable[[int], Awaitable[None]]:
    """A call of /v1/embeddings."""

    async def call(number: int) -> None:
        at = number * BATCH % 2048
        body = {"input": texts[at : at + BATCH]}
        answer = await client.post(f"http://127.0.0.1:{port}/v1/embeddings", json=body)
        if answer.status_code == 429:
            raise Refused
        answer.raise_for_status()

    return call


async def idle(encode: Any, encoder: Encoder, count: int) -> tuple[list[float], list[float]]:
    """Seconds of a short query in process and over gRPC, in turns, so that both meet the same machine."""
    text, local, remote = "how long do green teas steep?", list[float](), list[float]()
    for _ in range(count):
        began = time.perf_counter()
        encoder.encode([text], kind="query")
        local.append(time.perf_counter() - began)
        began = time.perf_counter()
        await encode.Embed(pb.EmbedRequest(texts=[text], kind="query"))
        remote.append(time.perf_counter() - began)
    return local, remote


async def run(arguments: argparse.Namespace) -> None:
    """Measure and print."""
    seconds, model = arguments.seconds, arguments.model
    texts = passages(2048 + 512)
    encoder = Encoder.load(model, device="cpu", dtype="float32")
    print(f"{os.cpu_count()} CPUs, OMP_NUM_THREADS={os.environ.get('OMP_NUM_THREADS')}, load {os.getloadavg()[0]:.1f}")
    own, tokens = in_process(encoder, texts, seconds)
    print(f"in process               {own:8.1f} texts/s   {tokens:8.0f} tokens/s")
    server = Decant(model)
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
            await measured(stubs.EncoderStub(channel), server, encoder, texts, own, seconds)
        async with httpx.AsyncClient(timeout=300, limits=httpx.Limits(max_connections=CLIENTS)) as client:
            count = await closed_loop(http_call(client, server.http_port, texts), seconds)
            print(f"HTTP, {CLIENTS} clients         {count * BATCH / seconds:8.1f} texts/s")
    finally:
        server.stop()
    if arguments.peer:
        peer = Peer(model, arguments.peer_port)
        try:
            async with httpx.AsyncClient(timeout=300, limits=httpx.Limits(max_connections=CLIENTS)) as client:
                count = await closed_loop(http_call(client, peer.http_port, texts), seconds)
                print(f"sentence-transformers    {count * BATCH / seconds:8.1f} texts/s  (behind FastAPI)")
        finally:
            peer.stop()
    again, _ = in_process(encoder, texts, seconds)
    print(f"in process, again        {again:8.1f} texts/s   load {os.getloadavg()[0]:.1f}")


async def measured(
    encode: Any, server: Decant, encoder: Encoder, texts: Sequence[str], own: float, seconds: float
) -> None:
    """What is asked of gRPC."""

    async def batch(number: int) -> None:
        at = number * BATCH % 2048
        await encode.Embed(pb.EmbedRequest(texts=texts[at : at + BATCH]), timeout=300)

    async def single(number: int) -> None:
        await encode.Embed(pb.EmbedRequest(texts=[texts[number % 2048]]), timeout=300)

    local, remote = await idle(encode, encoder, 100)
    added = float(np.median(np.subtract(remote, local))) * 1000
    print(f"idle, one short query    {_ms(local, 50)} in process   {_ms(remote, 50)} served   added p50 {added:.2f} ms")
    count = await closed_loop(batch, seconds)
    print(
        f"gRPC, {CLIENTS} clients         {count * BATCH / seconds:8.1f} texts/s  {count * BATCH / seconds / own:.0%}"
    )
    alone = await closed_loop(single, seconds)
    capacity = alone / seconds
    print(f"gRPC, one text a call    {capacity:8.1f} texts/s  {capacity / own:.0%}")
    for share in (0.5, 0.8, 0.95):
        print(f"load {share:4.0%}   {(await open_loop(single, share * capacity, seconds)).line()}")
    before = server.memory_bytes()
    print(f"load 300%   {(await open_loop(single, 3 * capacity, 2 * seconds)).line()}")
    print(f"memory before and after overload: {before / 2**20:.0f} and {server.memory_bytes() / 2**20:.0f} MiB")


def _ms(seconds: Sequence[float], percentile: int) -> str:
    return f"{np.percentile(seconds, percentile) * 1000:7.1f} ms" if seconds else "      -"


def main() -> None:
    """Read the arguments and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=str(DEFAULT_MODEL))
    parser.add_argument("--seconds", type=float, default=20.0, help="of each measurement")
    parser.add_argument("--peer", action="store_true", help="measure sentence-transformers behind FastAPI, too")
    parser.add_argument("--peer-port", type=int, default=9123)
    asyncio.run(run(parser.parse_args()))


if __name__ == "__main__":
    main()
