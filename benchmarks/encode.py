"""Encoding speed beside sentence-transformers: same weights, same texts, one run, alternating.

    python benchmarks/encode.py [--model FOLDER] [--texts 2000] [--rounds 5] [--short] [--cpu-time]

`--short` takes texts of 9 words. `--cpu-time` counts processor seconds instead of the clock's: on one thread, the fair
measure where other work shares the machine. Prints medians and ratios. Exits with 1 if the vectors disagree (cosine
below 0.9995), never because of slowness: absolute figures of a shared machine mean little.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from decant.embedder import Encoder

MIN_COSINE = 0.9995
CORPUS = Path(__file__).parent.parent / "examples" / "corpus"


def mixed_texts(count: int) -> list[str]:
    """Pieces of the example corpus from one line to a page, in an order that mixes them; the same every time."""
    words = " ".join(file.read_text(encoding="utf-8") for file in sorted(CORPUS.rglob("*.md"))).split()
    rng = np.random.default_rng(0)
    lengths = np.clip(rng.lognormal(mean=3.6, sigma=1.0, size=count), 3, 330).astype(int)
    starts = rng.integers(0, len(words) - 400, size=count)
    return [" ".join(words[start : start + n]) for start, n in zip(starts, lengths, strict=True)]


def contestants(model: Path) -> dict[str, Callable[[list[str]], NDArray[np.float32]]]:
    """Return encode functions by name; the first is the reference for speed and vectors."""
    from sentence_transformers import SentenceTransformer

    reference = SentenceTransformer(str(model), device="cpu", model_kwargs={"dtype": torch.float32})
    half = SentenceTransformer(str(model), device="cpu", model_kwargs={"dtype": torch.bfloat16})

    def plain(st: SentenceTransformer) -> Callable[[list[str]], NDArray[np.float32]]:
        return lambda texts: st.encode(texts, convert_to_tensor=True).float().numpy()

    def ours(dtype: str | None) -> Callable[[list[str]], NDArray[np.float32]]:
        encoder = Encoder.load(model, device="cpu", dtype=dtype)
        return lambda texts: np.asarray(encoder.encode(texts).dense)

    default = str(Encoder.load(model, device="cpu", verify=False).backbone.dtype).removeprefix("torch.")
    entries = {"sentence-transformers float32": plain(reference), "sentence-transformers bfloat16": plain(half)}
    entries["decant float32"] = ours("float32")
    if default != "float32":
        entries[f"decant {default} (default)"] = ours(None)
    return entries


def lowest_cosine(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    """Smallest cosine between rows of the same number."""
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return float(((a * b).sum(1) / norms).min())


def main() -> int:
    """Run the comparison and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=None, help="encoder folder (default: the shipped model)")
    parser.add_argument("--texts", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--short", action="store_true", help="texts of 9 words")
    parser.add_argument("--cpu-time", action="store_true", help="processor seconds; set OMP_NUM_THREADS=1 with it")
    options = parser.parse_args()
    model = options.model or Encoder.load().path
    texts = mixed_texts(options.texts)
    if options.short:
        texts = [" ".join(text.split()[:9]) for text in texts]
    clock = time.process_time if options.cpu_time else time.perf_counter
    entries = contestants(model)

    vectors = {name: encode(texts) for name, encode in entries.items()}
    seconds: dict[str, list[float]] = {name: [] for name in entries}
    for number in range(options.rounds):
        for name in list(entries)[:: 1 if number % 2 == 0 else -1]:
            start = clock()
            entries[name](texts)
            seconds[name].append(clock() - start)

    first = next(iter(entries))
    tokens = int(Encoder.load(model, verify=False).encode(texts).tokens.sum())
    print(
        f"{model.name}: {len(texts)} texts, {tokens} tokens, {torch.get_num_threads()} threads, {platform.processor()}"
    )
    print(f"{'':34} {'texts/s':>8} {'tokens/s':>9} {'speed':>7} {'lowest cosine':>14}")
    wrong = False
    for name, times in seconds.items():
        median = statistics.median(times)
        ratio = statistics.median(s / t for s, t in zip(seconds[first], times, strict=True))
        cosine = lowest_cosine(vectors[first], vectors[name])
        bad = cosine < MIN_COSINE and name.startswith("decant")
        wrong |= bad
        note = "  WRONG VECTORS" if bad else ""
        print(f"{name:34} {len(texts) / median:8.0f} {tokens / median:9.0f} {ratio:6.2f}x {cosine:14.6f}{note}")
    return int(wrong)


if __name__ == "__main__":
    sys.exit(main())
