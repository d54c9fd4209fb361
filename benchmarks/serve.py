"""The server under load: throughput against the encoder itself, latency at a given load, overload, and HTTP peers.

    python benchmarks/serve.py                          # everything, about eight minutes on a machine with nothing else
    python benchmarks/serve.py --seconds 2 --overload-seconds 6 --fresh      # to see that it works

What was measured is kept in runs/serve.json: a run that was broken off goes on where it stopped, and `--fresh` begins
again. Servers are processes of their own, one at a time, with the same number of threads. In process it is computed at
the priority that the server computes at, so that shares mean something beside other programs. A peer's speed is printed
only if its vectors are the encoder's.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import threading
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
from serve_load import TEXTS, closed_loop, grpc_call, http_call, mixed_texts, open_loop
from serve_servers import Decant, Peer, infinity_python

from decant.embedder import Encoder
from decant.embedder.formats.folder import DEFAULT_MODEL
from decant.service.proto.decant.v1 import decant_pb2 as pb
from decant.service.proto.decant.v1 import decant_pb2_grpc as stubs

CLIENTS = 64
BATCH = 4
SHARES = (0.5, 0.8, 0.95, 1.0)
LEAST_COSINE = 0.9999
# The server's setting, and its default.
NICENESS = int(os.environ.get("DECANT_COMPUTE_NICENESS", "10"))
PEERS = {
    "sentence-transformers behind FastAPI": lambda model: Peer(model, "st_fastapi"),
    "infinity 0.0.78": lambda model: Peer(model, "infinity_app", infinity_python()),
}
Results = dict[str, Any]


class Sections:
    """Results by name, written as soon as they are there."""

    def __init__(self, file: Path, settings: Results, *, fresh: bool) -> None:
        self.file = file
        self.results: Results = {"settings": settings}
        if file.exists() and not fresh:
            kept = json.loads(file.read_text("utf-8"))
            if kept["settings"] == settings:
                self.results = kept

    async def do(self, name: str, measure: Callable[[], Awaitable[Results]]) -> Results:
        """Measure what has not been measured."""
        if name not in self.results:
            began = os.getloadavg()[0]
            self.results[name] = {**await measure(), "load_before": round(began, 1)}
            self.file.parent.mkdir(parents=True, exist_ok=True)
            self.file.write_text(json.dumps(self.results, indent=2) + "\n", "utf-8")
            print(f"{name}: {json.dumps(self.results[name])}", flush=True)
        return self.results[name]

    def lacks(self, *names: str) -> bool:
        """Whether any of these is still to be measured."""
        return any(name not in self.results for name in names)


class Benchmark:
    """All sections on one model."""

    def __init__(self, model: str, seconds: float, overload_seconds: float, sections: Sections) -> None:
        self.model, self.seconds, self.overload_seconds, self.sections = model, seconds, overload_seconds, sections
        self.beside = ThreadPoolExecutor(1, initializer=_stand_back)
        self.texts = mixed_texts()
        # On the thread that computes, as the server does (`service/threads.py`).
        self.encoder = self.beside.submit(lambda: Encoder.load(model, device="cpu", dtype="float32")).result()
        # The clients live in this process: they must not pause to look through what the encoder holds.
        gc.collect()
        gc.freeze()

    async def run(self) -> None:
        """Measure what is missing."""
        loop = asyncio.get_running_loop()

        async def in_process() -> Results:
            return await loop.run_in_executor(self.beside, self._in_process)

        await self.sections.do("in process, before", in_process)
        names = ["idle", "gRPC", "gRPC, one text", *(f"load {share:.0%}" for share in SHARES), "overload", "HTTP"]
        if self.sections.lacks(*names):
            await self._decant()
        await self.sections.do("in process, after", in_process)
        for name, start in PEERS.items():
            if self.sections.lacks(name):
                await self._peer(name, start)

    def _in_process(self) -> Results:
        """`Encoder.encode`, handed 512 texts at a time."""
        self.encoder.encode(self.texts[:64])
        done = tokens = 0
        began = time.perf_counter()
        while (passed := time.perf_counter() - began) < self.seconds:
            made = self.encoder.encode(self.texts[done % TEXTS : done % TEXTS + 512])
            done, tokens = done + len(made), tokens + int(made.tokens.sum())
        return {"texts_per_second": done / passed, "tokens_per_second": tokens / passed}

    async def _decant(self) -> None:
        do, seconds = self.sections.do, self.seconds
        server = Decant(self.model, "model")
        with ExitStack() as stack:
            stack.callback(server.stop)
            async with grpc.aio.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
                encode = stubs.EncoderStub(channel)
                batch, single = (grpc_call(encode, self.texts, size) for size in (BATCH, 1))
                await do("idle", lambda: self._idle(encode))
                await do("gRPC", lambda: _throughput(batch, seconds, BATCH))
                alone = await do("gRPC, one text", lambda: _throughput(single, seconds, 1))
                capacity = alone["texts_per_second"]
                for share in SHARES:

                    async def at(share: float = share) -> Results:
                        return (await open_loop(single, share * capacity, seconds)).summary()

                    await do(f"load {share:.0%}", at)
                await do("overload", lambda: _overload(server, single, 3 * capacity, self.overload_seconds))
            async with _client() as client:
                await do(
                    "HTTP", lambda: _throughput(http_call(client, server.http_port, self.texts, BATCH), seconds, BATCH)
                )

    async def _idle(self, encode: Any, count: int = 200) -> Results:
        """Milliseconds of a short query in process and over gRPC, in turns, so that both meet the same machine."""
        text, local, remote = "how long do green teas steep?", list[float](), list[float]()

        def alone() -> float:
            began = time.perf_counter()
            self.encoder.encode([text], kind="query")
            return time.perf_counter() - began

        for _ in range(count):
            await asyncio.sleep(0.005)
            local.append(await asyncio.get_running_loop().run_in_executor(self.beside, alone))
            # Threads of the computation above spin for a moment before they sleep.
            await asyncio.sleep(0.005)
            began = time.perf_counter()
            await encode.Embed(pb.EmbedRequest(texts=[text], kind="query"))
            remote.append(time.perf_counter() - began)
        p50 = [float(np.median(seconds)) * 1000 for seconds in (local, remote)]
        added = float(np.median(np.subtract(remote, local))) * 1000
        return {"in_process_p50_ms": p50[0], "served_p50_ms": p50[1], "added_p50_ms": added}

    async def _peer(self, name: str, start: Callable[[str], Peer]) -> None:
        peer = start(self.model)
        with ExitStack() as stack:
            stack.callback(peer.stop)
            async with _client() as client:
                body = {"model": "model", "input": self.texts[:32]}
                answer = await client.post(f"http://127.0.0.1:{peer.http_port}/v1/embeddings", json=body)
                theirs = np.array([item["embedding"] for item in answer.raise_for_status().json()["data"]])
                ours = self.encoder.encode(self.texts[:32]).dense
                cosines = (theirs * ours).sum(1) / np.linalg.norm(theirs, axis=1)
                if (worst := float(cosines.min())) < LEAST_COSINE:
                    raise SystemExit(f"{name} gives other vectors (cosine {worst:.4f}): its speed means nothing")
                call = http_call(client, peer.http_port, self.texts, BATCH)
                await self.sections.do(name, lambda: _throughput(call, self.seconds, BATCH))


def _stand_back() -> None:
    """What `decant serve` does to the thread that computes."""
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), os.getpriority(os.PRIO_PROCESS, 0) + NICENESS)


async def _throughput(call: Callable[[int], Awaitable[None]], seconds: float, batch: int) -> Results:
    return {"texts_per_second": batch * await closed_loop(call, seconds, CLIENTS)}


async def _overload(server: Decant, call: Callable[[int], Awaitable[None]], rate: float, seconds: float) -> Results:
    """Three times what it can do, and its memory every second."""
    memory: list[int] = []

    async def watch() -> None:
        while True:
            memory.append(server.memory_bytes())
            await asyncio.sleep(1)

    watching = asyncio.create_task(watch())
    load = await open_loop(call, rate, seconds)
    watching.cancel()
    quarter = max(1, len(memory) // 4)
    begin, end = (float(np.mean(part)) / 2**20 for part in (memory[quarter : 2 * quarter], memory[-quarter:]))
    return {**load.summary(), "memory_mib_second_quarter": begin, "memory_mib_last_quarter": end}


def _client() -> httpx.AsyncClient:
    return httpx.AsyncClient(timeout=300, limits=httpx.Limits(max_connections=CLIENTS))


def report(results: Results) -> str:
    """The lines to read."""
    before, after = (results[f"in process, {when}"]["texts_per_second"] for when in ("before", "after"))
    own = (before + after) / 2
    lines = [f"in process                  {own:8.1f} texts/s ({before:.1f} before, {after:.1f} after)"]
    for name in ("gRPC", "gRPC, one text", "HTTP", *PEERS):
        speed = results[name]["texts_per_second"]
        lines.append(f"{name[:26]:26}  {speed:8.1f} texts/s {speed / own:6.0%}")
    best = max(results[name]["texts_per_second"] for name in PEERS)
    lines.append(f"gRPC against the best peer  {results['gRPC']['texts_per_second'] / best:8.2f} x")
    lines.append(f"idle, added                 {results['idle']['added_p50_ms']:8.2f} ms p50")
    for name in (*(f"load {share:.0%}" for share in SHARES), "overload"):
        answered, refused = results[name]["answered"], results[name]["refused"]
        points = "  ".join(f"p{p} {answered[f'p{p}_ms']:7.1f} ms" for p in (50, 95, 99))
        line = f"{name:12} {answered['count']:6} answered  {points}"
        if refused["count"]:
            line += f"   {refused['count']} refused  p50 {refused['p50_ms']:.1f}  p99 {refused['p99_ms']:.1f} ms"
        failed = results[name]["failed"]
        lines.append(line + (f"   FAILED {failed}: {results[name]['first_failure'][:80]}" if failed else ""))
    over = results["overload"]
    full, most = (results[name]["answered"]["p99_ms"] for name in (f"load {SHARES[-1]:.0%}", "overload"))
    lines.append(f"p99 under overload          {most / full:8.2f} x that of full load")
    memory = over["memory_mib_second_quarter"], over["memory_mib_last_quarter"]
    lines.append(f"memory under overload       {memory[0]:8.0f} MiB, at its end {memory[1]:.0f}")
    return "\n".join(lines)


def main() -> None:
    """Read the arguments, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=str(DEFAULT_MODEL))
    parser.add_argument("--seconds", type=float, default=20.0, help="of each measurement")
    parser.add_argument("--overload-seconds", type=float, default=60.0)
    parser.add_argument("--out", type=Path, default=Path("runs/serve.json"))
    parser.add_argument("--fresh", action="store_true", help="forget what was measured before")
    arguments = parser.parse_args()
    threads = os.environ.get("OMP_NUM_THREADS", "")
    settings = {
        "model": Path(arguments.model).name,
        "seconds": arguments.seconds,
        "overload_seconds": arguments.overload_seconds,
        "processors": os.cpu_count(),
        "OMP_NUM_THREADS": threads,
        "compute_niceness": NICENESS,
    }
    sections = Sections(arguments.out, settings, fresh=arguments.fresh)
    asyncio.run(Benchmark(arguments.model, arguments.seconds, arguments.overload_seconds, sections).run())
    gc.unfreeze()
    print(report(sections.results))


if __name__ == "__main__":
    main()
