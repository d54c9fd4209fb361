"""Encoding speed beside other ways to run the same model: same weights, same texts, one run, alternating.

    python benchmarks/encode.py [--model FOLDER] [--peers onnx openvino llama infinity] [--texts mixed short long]
    OMP_NUM_THREADS=1 python benchmarks/encode.py --cpu-time --size 0.3 --rounds 3 --out runs/encode

sentence-transformers in float32 and bfloat16 always runs beside Decant; `--peers` adds others, each in an environment
of its own that the first call makes (compiling llama.cpp takes minutes). Each contestant is one process that stays
alive, so that rounds alternate. `--cpu-time` counts processor seconds: on one thread, the fair measure where other work
shares the machine. Medians and ratios are printed, and a speed only where the vectors agree with sentence-transformers'
float32: cosine at least 0.999. Exits with 1 where Decant's do not, never because of slowness. `--out` keeps the record,
a table and a plot.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from encode_report import processor, write_report
from numpy.typing import NDArray
from peers.environments import HERE, python_of

from decant.embedder import Encoder

MIN_COSINE = 0.999
REFERENCE = "sentence-transformers float32"
CORPUS = Path(__file__).parent.parent / "examples" / "corpus"
# Name, kind and variant for the worker, and the environment; None is this one.
ALWAYS = [
    (REFERENCE, "sentence-transformers", "float32", None),
    ("sentence-transformers bfloat16", "sentence-transformers", "bfloat16", None),
    ("Decant float32", "decant", "float32", None),
    ("Decant bfloat16", "decant", "bfloat16", None),
    ("Decant int8", "decant", "int8", None),
]
PEERS = {
    "onnx": [
        ("sentence-transformers ONNX float32", "onnx", "float32", "onnx"),
        ("sentence-transformers ONNX int8", "onnx", "int8", "onnx"),
    ],
    "openvino": [
        ("sentence-transformers OpenVINO float32", "openvino", "float32", "openvino"),
        ("sentence-transformers OpenVINO default", "openvino", "default", "openvino"),
    ],
    "llama": [
        ("llama.cpp F32", "llama", "F32", "llama"),
        ("llama.cpp BF16", "llama", "BF16", "llama"),
        ("llama.cpp Q8_0", "llama", "Q8_0", "llama"),
    ],
    "infinity": [("infinity float32", "infinity", "float32", "infinity")],
}


@dataclass
class Contestant:
    """A worker process and what it has been seen to do."""

    name: str
    process: subprocess.Popen[str]
    failure: str = ""

    @classmethod
    def start(cls, name: str, kind: str, variant: str, environment: str | None, folder: Path) -> Contestant:
        """Start one; `ready` says whether it could be."""
        python = python_of(environment) if environment else sys.executable
        command = [python, "-W", "ignore", str(HERE / "encode_worker.py"), kind, variant, str(folder)]
        pipe = subprocess.PIPE
        return cls(name, subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True))

    def answer(self) -> Any:
        """Wait for a line; None, and a failure, where the process has ended."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline().strip()
        if not line:
            self.failure = f"ended with exit code {self.process.wait()}"
            return None
        return line if line == "ready" else json.loads(line)

    def encode(self, texts: Path, vectors: Path | None) -> dict[str, float] | None:
        """Let it encode a file of texts."""
        assert self.process.stdin is not None
        print(
            json.dumps({"texts": str(texts), "vectors": vectors and str(vectors)}), file=self.process.stdin, flush=True
        )
        return self.answer()

    def stop(self) -> None:
        """End it, whatever it is doing."""
        self.process.kill()
        self.process.wait()


def text_sets(size: float) -> dict[str, list[str]]:
    """Pieces of the example corpus, the same every time: mixed from a line to a page; 9 words; 450 words."""
    words = " ".join(file.read_text(encoding="utf-8") for file in sorted(CORPUS.rglob("*.md"))).split()
    rng = np.random.default_rng(0)
    counts = {"short": round(1000 * size), "mixed": round(500 * size), "long": round(60 * size)}
    mixed = np.clip(rng.lognormal(mean=3.6, sigma=1.0, size=counts["mixed"]), 3, 330).astype(int)
    lengths = {"short": [9] * counts["short"], "mixed": mixed.tolist(), "long": [450] * counts["long"]}
    return {
        name: [" ".join(words[start : start + n]) for n in given for start in [int(rng.integers(0, len(words) - n))]]
        for name, given in lengths.items()
    }


def lowest_cosine(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    """Smallest cosine between rows of the same number; -1 where there are not as many, or one is no number."""
    if a.shape != b.shape or not np.isfinite(b).all():
        return -1.0
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return float(((a * b).sum(1) / norms).min())


def run(contestants: list[Contestant], texts: list[str], rounds: int, clock: str) -> dict[str, dict[str, Any]]:
    """Measure one set of texts: what each spent in each round, and how far its vectors are from the reference's."""
    found: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        file, vectors = Path(folder, "texts.json"), Path(folder, "vectors.npy")
        file.write_text(json.dumps(texts), encoding="utf-8")
        wanted: NDArray[np.float32] | None = None
        for one in contestants:
            if one.encode(file, vectors) is None:
                continue
            made = np.load(vectors)
            wanted = made if wanted is None else wanted
            found[one.name] = {"cosine": lowest_cosine(wanted, made), "spent": []}
        for number in range(rounds):
            for one in contestants[:: 1 if number % 2 == 0 else -1]:
                if one.name in found and (spent := one.encode(file, None)) is not None:
                    found[one.name]["spent"].append(spent[clock])
    return found


def summary(found: dict[str, dict[str, Any]], tokens: int) -> dict[str, dict[str, Any]]:
    """Medians, and ratios within rounds; no speed for who made other vectors."""
    base = found[REFERENCE]["spent"]
    lines: dict[str, dict[str, Any]] = {}
    for name, line in found.items():
        lines[name] = {"cosine": round(line["cosine"], 6)}
        if line["cosine"] >= MIN_COSINE and len(line["spent"]) == len(base):
            ratios = [theirs / own for theirs, own in zip(base, line["spent"], strict=True)]
            median = statistics.median(line["spent"])
            lines[name] |= {"speed": round(statistics.median(ratios), 3), "tokens_per_second": round(tokens / median)}
    return lines


def main() -> int:
    """Run the comparison and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=None, help="encoder folder (default: the shipped model)")
    parser.add_argument("--peers", nargs="*", choices=PEERS, default=[])
    parser.add_argument("--texts", nargs="+", choices=("short", "mixed", "long"), default=["short", "mixed", "long"])
    parser.add_argument("--size", type=float, default=1.0, help="1 is 1000 short, 500 mixed and 60 long texts")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cpu-time", action="store_true", help="processor seconds; set OMP_NUM_THREADS=1 with it")
    parser.add_argument("--out", type=Path, default=None, help="folder for encode.json, a table and a plot")
    options = parser.parse_args()
    encoder = Encoder.load(options.model, device="cpu", dtype="float32", verify=False)
    sets = {name: texts for name, texts in text_sets(options.size).items() if name in options.texts}
    tokens = {name: sum(len(ids) for ids in encoder.tokenize(texts).ids) for name, texts in sets.items()}

    folder = encoder.path.resolve()
    with tempfile.TemporaryDirectory() as scratch:
        converted = (options.out or Path(scratch)) / "converted"
        if formats := [peer for peer in options.peers if peer != "infinity"]:
            converted.parent.mkdir(parents=True, exist_ok=True)
            command = [sys.executable, str(HERE / "convert.py"), str(folder), str(converted), *formats]
            subprocess.run(command, check=True)
        entries = [*ALWAYS, *(entry for peer in options.peers for entry in PEERS[peer])]
        places = [folder if entry[3] in (None, "infinity") else converted for entry in entries]
        contestants = [Contestant.start(*entry, place) for entry, place in zip(entries, places, strict=True)]
        record: dict[str, Any] = {
            "processor": processor(),
            "threads": int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1),
            "clock": "processor seconds" if options.cpu_time else "seconds by the clock",
            "model": folder.name,
            "texts": {name: {"count": len(texts), "tokens": tokens[name]} for name, texts in sets.items()},
            "results": {},
        }
        try:
            ready = [one for one in contestants if one.answer() == "ready"]
            clock = "cpu_seconds" if options.cpu_time else "seconds"
            for name, texts in sets.items():
                found = run([one for one in ready if not one.failure], texts, options.rounds, clock)
                record["results"][name] = summary(found, tokens[name])
                write_report(record, options.out)
        finally:
            for one in contestants:
                one.stop()
    for one in contestants:
        if one.failure:
            print(f"{one.name} {one.failure}")
    wrong = [
        name
        for lines in record["results"].values()
        for name, line in lines.items()
        if name.startswith("Decant") and "speed" not in line
    ]
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
