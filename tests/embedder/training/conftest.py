import gzip
import json
import random

import pytest
import torch

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


@pytest.fixture(scope="session")
def teacher_folder(tmp_path_factory):
    """A tiny BERT as a sentence-transformers folder, with gains and biases in its norms and reserved tokens."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    letters = "abcdefghijklmnopqrstuvwxyz0123456789.#"
    words = [word for topic, some in TOPICS.items() for word in (topic, *some)]
    special = ["[PAD]", "[unused0]", "[unused1]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocabulary = dict.fromkeys([*special, *words, *letters, *(f"##{letter}" for letter in letters)])
    ids = {token: number for number, token in enumerate(vocabulary)}
    backend = Tokenizer(models.WordPiece(ids, unk_token="[UNK]"))
    backend.normalizer, backend.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    ends = [("[CLS]", ids["[CLS]"]), ("[SEP]", ids["[SEP]"])]
    backend.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    names = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")}
    torch.manual_seed(0)
    bert = BertModel(
        BertConfig(
            vocab_size=len(ids),
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=64,
            max_position_embeddings=80,
            initializer_range=0.15,
        )
    )
    with torch.no_grad():
        bert.embeddings.position_embeddings.weight.mul_(0.1)
        for name, parameter in bert.named_parameters():
            if "LayerNorm" in name:
                parameter.add_(0.2 * torch.randn_like(parameter))
    folder = tmp_path_factory.mktemp("teacher")
    bert.save_pretrained(folder / "bert")
    PreTrainedTokenizerFast(tokenizer_object=backend, **names).save_pretrained(folder / "bert")
    transformer = Transformer(str(folder / "bert"), max_seq_length=64)
    SentenceTransformer(modules=[transformer, Pooling(32)], device="cpu").save_pretrained(str(folder / "st"))
    return folder / "st"


@pytest.fixture(scope="session")
def recipes():
    """The steps at toy size, in order, by name."""
    from decant.embedder.training.recipe import DistilRecipe, InheritRecipe, PairsRecipe, TermsRecipe, TokenizerRecipe

    sources = {"ask": 60, "code": 60, "notes": 40}
    steps = [
        TokenizerRecipe(of_teacher=True),
        PairsRecipe(sources=sources, dev={"ask": 8}, test_sets=["held"], chunk_chars=120),
        InheritRecipe(intermediate=48, max_tokens=64, fit_tokens=300, fit_limit=48),
        DistilRecipe(
            dims=[32, 16],
            batch_tokens=300,
            neighbours=4,
            passage_tokens={16: 0.5, 48: 0.5},
            steps=16,
            learning_rate=1e-3,
            matrix_learning_rate=5e-3,
            warmup_steps=2,
            checkpoint_steps=4,
        ),
        TermsRecipe(
            fit_tokens=1_000,
            batch_tokens=300,
            passage_tokens={48: 1.0},
            sampled_terms=20,
            steps=12,
            warmup_steps=2,
            checkpoint_steps=4,
        ),
    ]
    return {step.step: step for step in steps}


@pytest.fixture(scope="session")
def finished_run(data_folder, teacher_folder, recipes, tmp_path_factory):
    """Every step but the export run once."""
    from decant.embedder.training.steps import Run

    run = Run(tmp_path_factory.mktemp("run"), data_folder, lambda: teacher_folder)
    for recipe in recipes.values():
        assert run.do(recipe)
    return run
