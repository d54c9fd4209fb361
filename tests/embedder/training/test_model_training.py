import csv
import gzip
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
from models import make_base, recipe, write_data

from decant.embedder import DecantError, Encoder
from decant.embedder.training import model_training
from decant.embedder.training.model_training import train_model
from decant.embedder.training.run import Progress, TrainingError

TEXTS = ["river water", "bread flour oven", "moon"]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return make_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("data"))


def values(base, *objectives, **changes):
    return {
        "model": str(base),
        "data": {
            "pairs": {"files": ["$DATA/pairs.jsonl"]},
            "texts": {"kind": "texts", "files": ["$DATA/texts.jsonl"]},
        },
        "objectives": list(objectives),
        "steps": 6,
        "warmup_steps": 2,
        "checkpoint_steps": 2,
        "learning_rate": 0.01,
        **changes,
    }


MNTP = {"kind": "mntp", "batch_tokens": 48, "max_tokens": 12}
CONTRASTIVE = {"kind": "contrastive", "batch_pairs": 6, "negatives": 1, "chunk_tokens": 80}
SIMCSE = {"kind": "simcse", "batch_texts": 6, "max_tokens": 12}
INFILL = {"kind": "infill", "batch_tokens": 48, "max_tokens": 12}
CLM = {"kind": "clm", "batch_tokens": 48, "max_tokens": 12}
SPLADE = {"kind": "splade", "batch_pairs": 6}


def run(base, files, folder, *objectives, report=None, **changes):
    settings = recipe(values(base, *objectives, **changes))
    return train_model(settings, folder, variables={"DATA": str(files)}, device="cpu", report=report)


def log(folder):
    with (folder / "loss.csv").open(newline="") as file:
        return [(row["step"], row["loss"], row["tokens"], row["parts"]) for row in csv.DictReader(file)]


class Stop(Exception):
    pass


MIXES = {
    "full": ([MNTP, CONTRASTIVE, SIMCSE], {}),
    "lora": ([MNTP, CONTRASTIVE], {"lora": {"rank": 2, "dropout": 0.3}}),
    "alternating": ([{**CLM, "turns": 2}, {**MNTP, "mask_token": "add"}], {"alternate": True}),
    "magnet in bfloat16": ([MNTP, INFILL, SIMCSE], {"dtype": "bfloat16", "gradient_checkpointing": True}),
    "latent and sparse": (
        [CONTRASTIVE, SPLADE],
        {"encoder": {"sparse": {}, "latent": {"latents": 4, "heads": 2, "head_dim": 8}}, "dims": [16]},
    ),
}


@pytest.mark.parametrize("mix", MIXES)
def test_a_killed_and_continued_training_equals_an_undisturbed_one(base, data, tmp_path, mix):
    objectives, changes = MIXES[mix]

    def stop(now: Progress):
        if now.step == 5:
            raise Stop

    whole = run(base, data, tmp_path / "whole", *objectives, **changes)
    with pytest.raises(Stop):
        run(base, data, tmp_path / "cut", *objectives, report=stop, **changes)
    assert len(log(tmp_path / "cut")) == 5
    cut = run(base, data, tmp_path / "cut", *objectives, **changes)
    assert log(tmp_path / "cut") == log(tmp_path / "whole") and len(log(tmp_path / "cut")) == 6
    outputs = ("dense", "sparse") if "sparse" in mix else ("dense",)
    one, other = (Encoder.load(model, dtype="float32").encode(TEXTS, outputs=outputs) for model in (whole, cut))
    assert np.array_equal(one.dense, other.dense)
    assert (tmp_path / "cut" / "loss.png").stat().st_size > 1000
    before = Encoder.load(base, dtype="float32").encode(TEXTS).dense
    assert np.abs(before - one.dense[:, :32]).max() > 1e-3


def test_objectives_take_their_turns(base, data, tmp_path):
    objectives, changes = MIXES["alternating"]
    run(base, data, tmp_path, *objectives, **changes)
    kinds = [parts.split("=")[0] for *_, parts in log(tmp_path)]
    assert kinds == ["clm0", "clm0", "mntp1", "clm0", "clm0", "mntp1"]


def test_joint_losses_add_up_by_their_weights(base, data, tmp_path):
    run(base, data, tmp_path, {**MNTP, "weight": 0.5}, {**SIMCSE, "weight": 2.0}, steps=1)
    ((_, loss, _, parts),) = log(tmp_path)
    mntp, simcse = (float(part.split("=")[1]) for part in parts.split())
    assert float(loss) == pytest.approx(0.5 * mntp + 2 * simcse, abs=1e-4)


def test_training_finds_the_pairs_it_is_shown(base, data, tmp_path):
    strong = {**CONTRASTIVE, "batch_pairs": 32, "negatives": 0, "chunk_tokens": 1000}
    model = run(base, data, tmp_path, strong, steps=60, checkpoint_steps=60, learning_rate=0.004, dims=[16])
    pairs = [json.loads(line) for line in (data / "pairs.jsonl").read_text().splitlines()]
    hits = []
    for folder in (base, model):
        encoder = Encoder.load(folder, dtype="float32")
        queries = encoder.encode([pair["query"] for pair in pairs], kind="query").dense
        passages = encoder.encode([pair["positive"] for pair in pairs]).dense
        hits.append((np.argmax(queries @ passages.T, 1) == np.arange(len(pairs))).mean())
    assert hits[0] < 0.4 and hits[1] > 0.9
    assert Encoder.load(model).spec.dimensions == (16,)


def test_lora_trains_the_adapter_alone_and_the_adapter_gives_the_model(base, data, tmp_path):
    model = run(base, data, tmp_path, CONTRASTIVE, lora={"rank": 2})
    adapted = Encoder.load(base, dtype="float32", adapters=[tmp_path / "adapter"])
    found = Encoder.load(model, dtype="float32").encode(TEXTS).dense
    np.testing.assert_allclose(adapted.encode(TEXTS).dense, found, atol=1e-5)
    checkpoint = torch.load(tmp_path / "checkpoint.pt", weights_only=True)["module"]
    assert checkpoint and all("lora_" in name for name in checkpoint)


def test_a_decoder_from_scratch_is_made_once_and_mixtures_of_experts_are_balanced(base, data, tmp_path):
    decoder = {
        "architecture": "olmoe",
        "tokenizer": str(base.parent / "tokenizer"),
        "config": {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
                   "num_key_value_heads": 2, "num_experts": 4, "num_experts_per_tok": 2},
    }  # fmt: skip
    losses = []
    for balance in (0.0, 1.0):
        folder = tmp_path / str(balance)
        run("", data, folder, {**CLM, "router_balance": balance}, decoder=decoder, encoder={"attention": "causal"})
        losses.append(float(log(folder)[0][1]))
    # An even spread over experts gives top_k: the loss counts each of the chosen ones.
    assert losses[1] - losses[0] == pytest.approx(2.0, abs=0.3)


@pytest.mark.parametrize(
    ("objectives", "changes", "message"),
    [
        ([MNTP], {"encoder": {"poling": "mean"}}, "encoder.poling is unknown"),
        ([MNTP], {"encoder": {"pooling": "median"}}, "unknown pooling 'median'"),
        ([CONTRASTIVE], {"dims": [64]}, "dims: 64 is not between 1 and the model's 32 dimensions"),
        ([CONTRASTIVE], {"lora": {"targets": ["nothing"]}}, "lora.targets: "),
        ([CONTRASTIVE], {"encoder": {"latent": {"latents": 4, "heads": 2, "head_dim": 8, "hidden_size": 48}}}, "48"),
        (
            [CONTRASTIVE],
            {"encoder": {"latent": {"latent": 4, "heads": 2, "head_dim": 8}}},
            "encoder.latent.latent is unknown; known keys are latents, heads",
        ),
        ([CONTRASTIVE], {"encoder": {"latent": {"latents": 4, "heads": 2}}}, "encoder.latent.head_dim is missing"),
        ([CONTRASTIVE], {"encoder": {"max_tokens": "many"}}, "encoder.max_tokens must be a whole number, not 'many'"),
        ([{**CONTRASTIVE, "query_tokens": 1}], {}, r"objectives\[0\].query_tokens: max_tokens=1 leaves no room"),
        (
            [{**CONTRASTIVE, "query_tokens": 6}],
            {"encoder": {"prompts": {"query": "river water boat fish bread flour"}}},
            r"objectives\[0\].query_tokens: the query prompt leaves no room for a text",
        ),
        (
            [CONTRASTIVE],
            {"data": {"x": {"files": ["$DATA/pairs.jsonl"], "instruction": "find it"}}},
            "data.x.instruction: the encoder's query prompt has no place for it",
        ),
        ([CONTRASTIVE], {"examples": "$DATA/pairs.jsonl"}, "examples: the encoder retrieves none"),
        ([SPLADE], {}, r"objectives\[0\].kind: splade needs a sparse head"),
        ([{"kind": "distil", "teacher": "nowhere"}], {}, r"objectives\[0\].teacher: no folder at nowhere"),
        ([MNTP], {"data": {"x": {"kind": "texts", "files": ["$DATA/none.jsonl"]}}}, "none.jsonl does not exist"),
        ([MNTP], {"data": {"x": {"kind": "texts", "files": ["$DATO/x"]}}}, "needs the environment variable DATO: set"),
        (
            [MNTP],
            {"model": "$BASO", "data": {"x": {"kind": "texts", "files": ["$DATO/x"]}}},
            "needs the environment variables BASO and DATO: set them",
        ),
        ([CONTRASTIVE], {"data": {"x": {"files": ["$DATA/empty.jsonl"]}}}, r"empty.jsonl:2: positive is empty"),
        ([CONTRASTIVE], {"data": {"x": {"files": ["$DATA/lacks.jsonl"]}}}, r"lacks.jsonl:1: positive is missing"),
        (
            [CONTRASTIVE],
            {"data": {"x": {"files": ["$DATA/broken.jsonl"]}}},
            r"data.x: .*broken.jsonl:2: not a JSON line",
        ),
        ([CONTRASTIVE], {"data": {"x": {"files": ["$DATA/latin.jsonl"]}}}, r"data.x: .*latin.jsonl cannot be read: "),
        (
            [CONTRASTIVE],
            {"data": {"x": {"files": ["$DATA/torn.jsonl.gz"]}}},
            r"data.x: .*torn.jsonl.gz cannot be read: ",
        ),
        ([CONTRASTIVE], {"data": {"x": {"files": ["$DATA/pairs.jsonl"], "query_kind": "ask"}}}, "no prompt of kind"),
        ([MNTP], {"model": "", "decoder": {"architecture": "lama", "tokenizer": "$DATA"}}, "decoder"),
    ],
)
def test_bad_input_is_one_line_that_names_the_field_before_any_step(base, data, tmp_path, objectives, changes, message):
    (data / "empty.jsonl").write_text('{"query": "a", "positive": "b"}\n{"query": "a", "positive": " "}\n')
    (data / "lacks.jsonl").write_text('{"query": "a"}\n')
    (data / "broken.jsonl").write_text('{"query": "a", "positive": "b"}\n{"query":\n')
    (data / "latin.jsonl").write_bytes('{"query": "café", "positive": "b"}\n'.encode("latin-1"))
    (data / "torn.jsonl.gz").write_bytes(gzip.compress(b'{"query": "a", "positive": "b"}\n' * 99)[:-12])
    with pytest.raises(DecantError, match=message) as error:
        run(base, data, tmp_path / "run", *objectives, **changes)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run" / "loss.csv").exists()


def test_a_loss_that_is_no_number_stops_the_run_and_keeps_the_checkpoint(base, data, tmp_path, monkeypatch):
    joint = model_training._joint

    def broken(objectives, tasks):
        forward = joint(objectives, tasks)
        return lambda step: forward(step) if step < 3 else model_training.StepResult(torch.tensor(float("nan")), 1)

    monkeypatch.setattr(model_training, "_joint", broken)
    with pytest.raises(TrainingError, match="the loss is nan at step 4: lower learning_rate"):
        run(base, data, tmp_path, CONTRASTIVE)
    assert torch.load(tmp_path / "checkpoint.pt", weights_only=True)["step"] == 2
