import gzip
import json
import random

import numpy as np
import pytest

TOPICS = {
    "river": "water flows bank bridge fish boat stream delta".split(),
    "bread": "flour yeast oven dough crust baker salt loaf".split(),
    "python": "def return self list iter loop import value".split(),
    "planet": "orbit moon star gravity light comet dust sun".split(),
}


def sentence(rng, words, length):
    return " ".join(rng.choice(words) for _ in range(length)).capitalize() + "."


def write(path, records):
    path.parent.mkdir(parents=True, exist_ok=True)
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(record) + "\n" for record in records)


@pytest.fixture(scope="session")
def data_folder(tmp_path_factory):
    """A miniature of the data layout: two pair files, one text file, one test collection."""
    root, rng = tmp_path_factory.mktemp("data"), random.Random(0)
    for name in ("ask", "code"):
        records = []
        for number in range(60):
            topic = rng.choice(list(TOPICS))
            words = [topic, *TOPICS[topic]]
            records.append({"query": f"{sentence(rng, words, 4)} {number}", "positive": sentence(rng, words, 12)})
        write(root / "pairs" / f"{name}.jsonl.gz", records)
    texts = []
    for topic, words in TOPICS.items():
        lines = [" ".join(sentence(rng, [topic, *words], 8) for _ in range(4)) for _ in range(6)]
        texts.append({"title": topic, "text": f"# All about {topic}\n" + "\n".join(lines)})
    write(root / "text" / "notes.jsonl.gz", texts)
    beir = root / "beir" / "held"
    beir.mkdir(parents=True)
    (beir / "queries.jsonl").write_text(json.dumps({"_id": "q", "text": "never train on this"}) + "\n")
    (beir / "corpus.jsonl").write_text(json.dumps({"_id": "d", "title": "", "text": "secret " * 9}) + "\n")
    return root


class HashTeacher:
    """Unit vectors that depend on the words only: a teacher without weights."""

    def embed(self, texts):
        rows = [sum((self._word(word) for word in text.lower().split()), self._word("")) for text in texts]
        array = np.asarray(rows, np.float32)
        return array / np.linalg.norm(array, axis=1, keepdims=True)

    @staticmethod
    def _word(word):
        return np.random.default_rng(list(word.encode())).normal(size=32)


@pytest.fixture(scope="session")
def teacher():
    return HashTeacher()


@pytest.fixture(scope="session")
def recipes():
    """The steps at toy size, in order, by name."""
    from decant.embedder.training.recipe import (
        ContrastiveRecipe,
        LmRecipe,
        PairsRecipe,
        TeacherRecipe,
        TokenizerRecipe,
        TokenTableRecipe,
    )

    dims, sources = [32, 16], {"ask": 60, "code": 60, "notes": 40}
    steps = [
        TokenizerRecipe(vocab_size=420, reserved_tokens=2, sources={name: 10_000 for name in sources}),
        PairsRecipe(sources=sources, dev={"ask": 8}, test_sets=["held"], chunk_chars=120),
        TeacherRecipe(rows={"ask": 40, "code": 40}, shard_rows=32),
        # Every batch taught: losses with and without a teacher cannot be compared.
        TokenTableRecipe(
            dims=dims,
            batch_pairs=16,
            steps=12,
            learning_rate=0.05,
            warmup_steps=2,
            teacher_share=1.0,
            checkpoint_steps=4,
        ),
        LmRecipe(layers=2, heads=2, intermediate=48, max_tokens=64, batch_tokens=200, steps=4, checkpoint_steps=2),
        ContrastiveRecipe(dims=dims, batch_pairs=8, steps=6, warmup_steps=2, checkpoint_steps=3),
    ]
    return {step.step: step for step in steps}


@pytest.fixture(scope="session")
def finished_run(data_folder, teacher, recipes, tmp_path_factory):
    """Every step run once, up to the contrastive one."""
    from decant.embedder.training.steps import Run

    run = Run(tmp_path_factory.mktemp("run"), data_folder, lambda max_tokens: teacher)
    for recipe in recipes.values():
        assert run.do(recipe)
    return run
