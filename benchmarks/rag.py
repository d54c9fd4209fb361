"""Three ways to give a decoder its passages: in the prompt, as joined keys and values, as cached states (XC).

    python benchmarks/rag.py [--passages 1 5 20 50] [--repeats 3] [--json FILE]

One decoder (decant-mini's shape and weights), the same passages of 256 tokens, the same question of 16 tokens. Time to
the first token counts all that a question costs when its passages are known already, in memory: in-context has no
cache and reads everything; reuse turns keys to their places and joins them; XC makes keys and values of the cached
states for its blocks. Then the bytes a token of context takes for decoders of other shapes, checked by running these
shapes on torch's meta device, which allocates tensors without their memory.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM

from decant.embedder.formats.folder import DEFAULT_MODEL
from decant.rag.generators.kv_reuse import PassageKv, compress, encode_passage, join
from decant.rag.xc.config import XcConfig
from decant.rag.xc.decoder import XcDecoder

PASSAGE_TOKENS, QUESTION_TOKENS, ANSWER_TOKENS = 256, 16, 16
SHAPES = {
    "Llama-2-7B": {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32},
    "Llama-3-8B": {
        "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32,
        "num_key_value_heads": 8,
    },
}  # fmt: skip


def timed(run: Callable[[], object], repeats: int) -> float:
    """Median seconds of computing of a call, the first one left out."""
    run()
    seconds: list[float] = []
    for _ in range(repeats):
        # Of this process alone, on one thread: what else the machine does has no part in it.
        began = time.process_time()
        run()
        seconds.append(time.process_time() - began)
    return statistics.median(seconds)


class Bench:
    """The decoder with its blocks, and one question."""

    def __init__(self) -> None:
        config = LlamaConfig.from_pretrained(DEFAULT_MODEL)
        config.is_causal, config.use_cache = True, True
        self.base = LlamaForCausalLM.from_pretrained(DEFAULT_MODEL, config=config, dtype=torch.float32).eval()
        sizes = XcConfig(
            config.num_hidden_layers, config.hidden_size, config.hidden_size, blocks=2, stride=2, hidden=384,
            heads=6, kv_heads=6, inner=768,
        )  # fmt: skip
        torch.manual_seed(0)
        self.question = torch.randint(20, config.vocab_size, (QUESTION_TOKENS,))
        self.plain = LlamaForCausalLM.from_pretrained(DEFAULT_MODEL, config=config, dtype=torch.float32).eval()
        self.xc = XcDecoder(self.base, sizes).eval()

    def continue_from(self, cache: DynamicCache, ids: Tensor, position: int, tokens: int) -> None:
        """Read the rest of a prompt and write so many tokens."""
        fed = ids[None]
        for _ in range(tokens):
            places = torch.arange(position, position + fed.shape[1])[None]
            out = self.plain(input_ids=fed, position_ids=places, past_key_values=cache, logits_to_keep=1)
            position += fed.shape[1]
            fed = out.logits[:, -1].argmax(-1, keepdim=True)

    def in_context(self, passages: list[Tensor], tokens: int) -> None:
        """Read passages and question, write."""
        ids = torch.cat([*passages, self.question])
        self.continue_from(DynamicCache(config=self.plain.config), ids, 0, tokens)

    def reuse(self, known: list[PassageKv], tokens: int) -> None:
        """Join what is known of the passages, read the question, write."""
        cache, position = join(self.plain, known)
        self.continue_from(cache, self.question, position, tokens)

    def cached(self, states: list[Tensor], tokens: int) -> None:
        """Make the blocks' keys and values of cached float16 states, read the question, write."""
        memories = self.xc.remember(torch.cat(states).float(), [sum(map(len, states))])
        list(self.xc.write(self.question, memories, max_tokens=tokens, stop=frozenset()))


@torch.inference_mode()
def measure(count: int, repeats: int) -> list[dict[str, object]]:
    """One row per way for so many passages."""
    bench = Bench()
    passages = [torch.randint(20, 16_000, (PASSAGE_TOKENS,)) for _ in range(count)]
    states = [bench.xc.context_states(ids).half() for ids in passages]
    known = [encode_passage(bench.plain, ids) for ids in passages]
    half = [compress(passage, 0.5) for passage in known]
    ways: dict[str, tuple[Callable[[int], None], int]] = {
        "in-context": (lambda n: bench.in_context(passages, n), 0),
        "KV reuse": (lambda n: bench.reuse(known, n), known[0].nbytes // 2),  # as float16
        "KV reuse, half the keys": (lambda n: bench.reuse(half, n), half[0].nbytes // 2),
        "XC": (lambda n: bench.cached(states, n), states[0].numel() * 2),
    }
    rows: list[dict[str, object]] = []
    for way, (run, size) in ways.items():
        first = timed(lambda run=run: run(1), repeats)
        whole = timed(lambda run=run: run(ANSWER_TOKENS), repeats)
        row = {"passages": count, "way": way, "first_token_s": first, "answer_s": whole}
        rows.append({**row, "bytes_per_token": size / PASSAGE_TOKENS})
        print(f"{count:8d} {way:24} {1e3 * first:12.1f} {1e3 * whole:12.1f} {size / PASSAGE_TOKENS:12.0f}", flush=True)
    return rows


def shape_bytes(name: str) -> dict[str, float]:
    """Bytes a context token takes at a shape: all keys and values, cached states in float16 and in int8."""
    config = LlamaConfig(**SHAPES[name])
    with torch.device("meta"):
        model = LlamaForCausalLM(config).half()
        cache = DynamicCache(config=config)
        ids = torch.zeros(1, PASSAGE_TOKENS, dtype=torch.int64)
        hidden = model.model(input_ids=ids, past_key_values=cache, use_cache=True).last_hidden_state
    kv = sum(t.numel() * t.element_size() for layer in cache.layers for t in (layer.keys, layer.values))
    int8 = hidden.numel() + 2 * PASSAGE_TOKENS  # a float16 scale for each token
    sizes = (kv, hidden.numel() * hidden.element_size(), int8)
    return dict(zip(("kv", "xc_float16", "xc_int8"), (size / PASSAGE_TOKENS for size in sizes), strict=True))


def main() -> int:
    """Print two tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--passages", type=int, nargs="+", default=[1, 5, 20, 50])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path, default=None)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"one thread, float32, answers of {ANSWER_TOKENS} tokens; bytes as float16")
    print(f"{'passages':>8} {'way':24} {'first tok ms':>12} {'answer ms':>12} {'bytes/token':>12}")
    rows = [row for count in options.passages for row in measure(count, options.repeats)]
    print(f"\n{'shape':12} {'KV':>10} {'XC fp16':>10} {'XC int8':>10} {'KV / XC':>8} {'KV / int8':>9}")
    shapes = {name: shape_bytes(name) for name in SHAPES}
    for name, size in shapes.items():
        kv, half, byte = size["kv"], size["xc_float16"], size["xc_int8"]
        print(f"{name:12} {kv:10,.0f} {half:10,.0f} {byte:10,.0f} {kv / half:8.1f} {kv / byte:9.1f}")
    if options.json:
        options.json.write_text(json.dumps({"timings": rows, "shapes": shapes}, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
