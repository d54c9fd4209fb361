"""What cached context costs in quality: answers from float16 and int8 states, and joined keys with and without a sink.

    python benchmarks/rag_quality.py --squad squad-dev-v1.1.json.gz [--questions 300]    the right passage given
    python benchmarks/rag_quality.py --pairs squad-train.jsonl.gz [--questions 300]      the same, held-out articles
    python benchmarks/rag_quality.py ... --by writer|writer-without-blocks               the same, by the writer
    python benchmarks/rag_quality.py --pairs squad-train.jsonl.gz --decoder FOLDER       entropy of its attention

The first three: exact match and F1 of the best answer where each question has its own passage and must be
answered, from states as they are and from states rounded to int8 as `--cache-context int8` stores them, by the reader,
by the writer, or by it with cross-attention blocks that add nothing. The last: the
entropy of question tokens' attention over several passages, read in one go or joined from keys and values of passages
that were encoded alone, without and with one shared first token.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache

from decant.embedder import Encoder
from decant.rag.evaluation import Example, read_examples
from decant.rag.generators.kv_reuse import encode_passage, join
from decant.rag.metrics import exact_match, f1
from decant.rag.reader.adapter import SHIPPED as READER
from decant.rag.reader.adapter import TrainedReader
from decant.rag.reader.batch import pad, read
from decant.rag.reader.data import read_questions
from decant.rag.reader.decode import best_spans
from decant.rag.reader.generator import trimmed
from decant.rag.segments import rounded
from decant.rag.states import States, encode_states
from decant.rag.writer.adapter import SHIPPED as WRITER
from decant.rag.writer.adapter import TrainedWriter
from decant.rag.writer.lit import light
from decant.rag.writer.model import CopyWriter
from decant.rag.writer.search import write

PASSAGE_TOKENS = 96


def examples(options: argparse.Namespace) -> list[Example]:
    """Questions with their passages: of a SQuAD file, or of the articles that the reader's training held out."""
    if options.squad:
        found = [example for example in read_examples(options.squad) if example.gold]
    else:
        q = read_questions(options.pairs, dev_articles=options.dev_articles)
        rows = np.flatnonzero(q.dev).tolist()
        found = [Example(q.texts[i], q.passages[int(q.passage_of[i])], (q.answers[i],)) for i in rows]
    if not options.questions or options.questions >= len(found):
        return found
    chosen = np.random.default_rng(0).choice(len(found), options.questions, replace=False)
    return [found[i] for i in np.sort(chosen)]


Place = tuple[int, int]
Answers = Callable[[Sequence[States], Sequence[States]], list[Place]]


def answers_of(options: argparse.Namespace, encoder: Encoder) -> Answers:
    """Who is asked: from passages and a question for each to the first and last token of each answer."""
    if options.by == "reader":
        trained = TrainedReader.load(options.folder or READER, encoder)
        return lambda passages, questions: spans(trained, passages, questions)
    writer = TrainedWriter.load(options.folder or WRITER, encoder).writer
    if options.by == "writer-without-blocks":
        for block in writer.decoder.cross_attn_layers.values():
            block.crossattention.o_proj.weight.zero_()
            block.mlp.down_proj.weight.zero_()
    return lambda passages, questions: [
        written(writer, passage, question) for passage, question in zip(passages, questions, strict=True)
    ]


def written(writer: CopyWriter, passage: States, question: States) -> Place:
    """The place that the writer takes its answer from."""
    runs, _ = write(writer, light(writer.reader, [question], [[passage]]), question.ids.tolist())
    return runs[0].first, runs[0].last


@torch.inference_mode()
def spans(trained: TrainedReader, passages: Sequence[States], questions: Sequence[States]) -> list[Place]:
    """The best span of each passage for its question, a batch of 16 at a time."""
    found: list[Place] = []
    for start in range(0, len(passages), 16):
        part = slice(start, start + 16)
        pairs = pad(passages[part], questions[part], list(range(len(passages[part]))))
        found += [(span.first, span.last) for span in best_spans(*read(trained.reader, pairs))]
    return found


def read_gold(asked: Sequence[Example], options: argparse.Namespace) -> dict[str, float]:
    """Scores with the right passage, from float16 and from int8 states."""
    encoder = Encoder.load(options.model, verify=False)
    answer = answers_of(options, encoder)
    order = sorted(asked, key=lambda example: len(example.passage))
    passages = encode_states(encoder, [example.passage for example in order])
    questions = encode_states(encoder, [" ".join(example.question.split()) for example in order], "query")
    scores: dict[str, float] = {"questions": len(order)}
    texts: dict[str, list[str]] = {}
    for name, states in (("float16", passages), ("int8", [rounded(own) for own in passages])):
        texts[name] = [
            trimmed(example.passage[own.offsets[first, 0] : own.offsets[last, 1]].strip())
            for example, own, (first, last) in zip(order, states, answer(states, questions), strict=True)
        ]
        scored = list(zip(texts[name], order, strict=True))
        scores[f"{name} EM"] = float(np.mean([exact_match(text, example.gold) for text, example in scored]))
        scores[f"{name} F1"] = float(np.mean([f1(text, example.gold) for text, example in scored]))
    scores["same answer"] = float(np.mean([a == b for a, b in zip(texts["float16"], texts["int8"], strict=True)]))
    return scores


@torch.inference_mode()
def entropy(asked: Sequence[Example], folder: Path, counts: Sequence[int]) -> list[dict[str, float | str]]:
    """Mean entropy, in nats, of attention from question tokens to the passages, and the question's loss."""
    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    sink = torch.tensor([tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id])
    rows: list[dict[str, float | str]] = []
    for count in counts:
        totals: dict[str, list[tuple[float, float]]] = {}
        for start in range(0, len(asked) - count, max(1, len(asked) // 20)):
            group = asked[start : start + count]
            ids = [torch.tensor(tokenizer.encode(e.passage, add_special_tokens=False)) for e in group]
            passages = [own[:PASSAGE_TOKENS] for own in ids]
            question = torch.tensor(tokenizer.encode(group[0].question, add_special_tokens=False))
            head = encode_passage(model, sink)
            whole = encode_passage(model, torch.cat([sink, *passages]))
            ways = {
                "read in one go": [whole],
                "joined": [encode_passage(model, own) for own in passages],
                "joined behind a sink": [head, *(encode_passage(model, own, sink) for own in passages)],
            }
            for way, known in ways.items():
                cache, after = join(model, known)
                totals.setdefault(way, []).append(_looked_at(model, cache, question, after))
        for way, values in totals.items():
            spread, loss = np.mean(values, 0)
            rows.append({"passages": count, "way": way, "entropy": float(spread), "loss": float(loss)})
    return rows


def _looked_at(model: torch.nn.Module, cache: DynamicCache, question: Tensor, after: int) -> tuple[float, float]:
    """Entropy over all that is in the cache, mean over layers, heads and tokens; loss of the question's tokens."""
    places = torch.arange(after, after + len(question))[None]
    out = model(
        input_ids=question[None], position_ids=places, past_key_values=cache, output_attentions=True, use_cache=True
    )
    found: list[float] = []
    for weights in out.attentions:
        context = weights[..., :after].double()
        shares = context / context.sum(-1, keepdim=True)
        found.append(float(-(shares * shares.clamp(min=1e-12).log()).sum(-1).mean()))
    loss = torch.nn.functional.cross_entropy(out.logits[0, :-1].float(), question[1:])
    return float(np.mean(found)), float(loss)


def main() -> int:
    """Print what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--squad", type=Path, default=None)
    parser.add_argument("--pairs", type=Path, default=None)
    parser.add_argument("--dev-articles", type=int, default=22)
    parser.add_argument("--questions", type=int, default=300)
    parser.add_argument("--by", choices=["reader", "writer", "writer-without-blocks"], default="reader")
    parser.add_argument("--folder", type=Path, default=None, help="of the reader or writer; those that ship")
    parser.add_argument("--model", default=None)
    parser.add_argument("--decoder", type=Path, default=None)
    parser.add_argument("--passages", type=int, nargs="+", default=[1, 2, 5])
    options = parser.parse_args()
    if (options.squad is None) == (options.pairs is None):
        parser.error("give --squad or --pairs")
    torch.set_num_threads(1)
    asked = examples(options)
    if options.decoder is None:
        print(json.dumps(read_gold(asked, options), indent=2))
        return 0
    print(f"{'passages':>8} {'way':22} {'entropy':>8} {'of the most':>11} {'loss':>6}")
    for row in entropy(asked, options.decoder, options.passages):
        most = math.log(int(row["passages"]) * PASSAGE_TOKENS)
        share = f"{float(row['entropy']) / most:11.2f}"
        print(f"{row['passages']:8} {row['way']:22} {float(row['entropy']):8.2f} {share} {float(row['loss']):6.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
