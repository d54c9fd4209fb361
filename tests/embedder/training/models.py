"""A tiny decoder with its tokenizer and data files, for tests of trainings."""

import json
import random
from pathlib import Path

import numpy as np

from decant.embedder.training.data import PairData, TextData, TrainingPair
from decant.embedder.training.model_training import load_for_training
from decant.embedder.training.objectives.context import Context
from decant.embedder.training.recipe import TokenizerRecipe
from decant.embedder.training.scratch import make_decoder
from decant.embedder.training.settings import build
from decant.embedder.training.tokenizer import train_tokenizer
from decant.embedder.training.trainee import Trainee, load_lm_head
from decant.embedder.training.training_recipe import DataSettings, DecoderSettings, TrainRecipe

WORDS = "river water boat fish bread flour oven salt python loop list value moon star light sun".split()
CONFIG = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "initializer_range": 0.1,
}


def sentences(count, length, seed=0):
    rng = random.Random(seed)
    return [" ".join(rng.choice(WORDS) for _ in range(length)) for _ in range(count)]


def make_base(folder: Path, architecture="llama", **config) -> Path:
    """A decoder folder with random weights."""
    tokenizer = train_tokenizer(iter([*sentences(50, 12), "under_score _"]), TokenizerRecipe(vocab_size=340))
    tokenizer.save_pretrained(folder / "tokenizer")
    make_decoder(DecoderSettings(architecture, "", {**CONFIG, **config}), folder / "tokenizer", 0, folder / "base")
    return folder / "base"


def write_data(folder: Path) -> Path:
    """pairs.jsonl (with one negative each) and texts.jsonl."""
    pairs = [
        {"query": q, "positive": p, "negatives": [n]}
        for q, p, n in zip(sentences(40, 3, 1), sentences(40, 9, 2), sentences(40, 7, 3), strict=True)
    ]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    (folder / "texts.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in sentences(30, 40, 4)))
    return folder


def recipe(values) -> TrainRecipe:
    return build(TrainRecipe, values, "test")


def context(
    base: Path, encoder=None, *, with_head=True, dims=(32,), lora=None, bfloat16=False, examples=None
) -> Context:
    """What an objective is given, on a tiny model: 40 pairs and 30 texts."""
    values = {"model": str(base), "encoder": encoder or {}, "objectives": [{"kind": "mntp"}]}
    values["data"] = {"text": {"kind": "texts", "files": ["x"]}}
    loaded = load_for_training(base, recipe(values), "cpu", examples)
    head = load_lm_head(loaded, base) if with_head else None
    trainee = Trainee(loaded, head, bfloat16=bfloat16, lora=lora)
    texts = sentences(30, 40, 4)
    pairs = [
        TrainingPair(q, p, (n,))
        for q, p, n in zip(sentences(40, 3, 1), sentences(40, 9, 2), sentences(40, 7, 3), strict=True)
    ]
    settings = DataSettings(["x"])
    return Context(
        trainee,
        {"pairs": PairData("pairs", settings, pairs)},
        {"text": TextData("text", texts, np.cumsum([len(t) for t in texts]))},
        dims,
        0,
        0,
    )


def gradients(trainee: Trainee):
    """Gradients by name, which are cleared."""
    found = {n: p.grad.clone() for n, p in trainee.named_parameters() if p.grad is not None}
    trainee.zero_grad(set_to_none=True)
    return found
