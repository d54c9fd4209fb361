import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from transformers import AutoModelForCausalLM

sys.path.insert(0, str(Path(__file__).parent))
from models import context, gradients, make_base

from decant.embedder.training.hybrid import HybridLayout, visible
from decant.embedder.training.objectives.clm import Clm
from decant.embedder.training.objectives.infill import Infill, draw_spans
from decant.embedder.training.objectives.mntp import Masking, Mntp
from decant.embedder.training.packed_texts import PackedTexts
from decant.embedder.training.settings import RecipeError
from decant.embedder.training.training_recipe import (
    ClmSettings,
    InfillSettings,
    MntpSettings,
)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return make_base(tmp_path_factory.mktemp("base"))


def reference(base):
    return AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32, attn_implementation="eager").eval()


def rows_of(texts):
    return texts.input_ids.split(texts.lengths)


def everything_visible(length):
    return torch.zeros(1, 1, length, length)


# Language modelling


def test_clm_is_the_library_s_loss_of_each_text_and_meap_hides_inputs_only(base):
    given = context(base)
    for share in (0.0, 0.3):
        clm = Clm(ClmSettings(batch_tokens=96, max_tokens=24, mask_share=share), given, ["text"])
        texts = clm._batches(3, 4)
        fed = clm.inputs(texts, 3)
        assert (fed != texts.input_ids).any() == bool(share)
        assert set(fed[fed != texts.input_ids].tolist()) <= {given.trainee.encoder.text_tokenizer.source.mask_token_id}
        losses, model = [], reference(base)
        for ids, inputs in zip(rows_of(texts), fed.split(texts.lengths), strict=True):
            logits = model(input_ids=inputs[None]).logits[0, :-1]
            losses.append(F.cross_entropy(logits, ids[1:], reduction="none"))
        result = clm(3, 1.0)
        assert result.tokens == len(texts.input_ids)
        assert result.loss.item() == pytest.approx(torch.cat(losses).mean().item(), abs=1e-5)


def test_mntp_predicts_a_hidden_token_from_the_state_before_it_seeing_both_sides(base):
    given = context(base)
    mntp = Mntp(MntpSettings(batch_tokens=96, max_tokens=24, mask_share=0.3), given, ["text"])
    texts = mntp._batches(5, 4)
    fed, places = mntp.masking(texts, given.rng(5 + 1_000_000_007))
    model, losses, start = reference(base), [], 0
    for ids, inputs in zip(rows_of(texts), fed.split(texts.lengths), strict=True):
        here = [int(p) - start for p in places if start <= p < start + len(ids)]
        states = model(input_ids=inputs[None], attention_mask=everything_visible(len(ids))).logits[0]
        losses += [F.cross_entropy(states[p - 1 : p], ids[p : p + 1]) for p in here]
        start += len(ids)
    assert mntp(5, 1.0).loss.item() == pytest.approx(torch.stack(losses).mean().item(), abs=1e-5)
    full = gradients(given.trainee)
    mntp(5, 0.25)
    for name, gradient in gradients(given.trainee).items():
        torch.testing.assert_close(gradient, full[name] / 4, msg=name)


def test_masking_keeps_first_and_special_tokens_and_corrupts_as_bert_does():
    rng = np.random.default_rng(0)
    rows = [np.concatenate([[1], rng.integers(4, 100, 499), [2]]) for _ in range(40)]
    texts = PackedTexts.of(rows)
    masking = Masking(0.2, 50, True, np.asarray([0, 1, 2, 3]), 100)
    fed, places = masking(texts, rng)
    starts = np.cumsum([0, *texts.lengths[:-1]])
    assert not set(places.tolist()) & {*starts, *(starts + 500)}
    assert len(places) / (40 * 499) == pytest.approx(0.2, abs=0.01)
    untouched = torch.ones(len(fed), dtype=torch.bool)
    untouched[places] = False
    assert torch.equal(fed[untouched], texts.input_ids[untouched])
    before, after = texts.input_ids[places], fed[places]
    assert ((after == 50) & (before != 50)).float().mean().item() == pytest.approx(0.8, abs=0.03)
    assert (after == before).float().mean().item() == pytest.approx(0.1 + 0.8 / 96 + 0.1 / 96, abs=0.02)
    assert after.min() >= 4
    plain, chosen = Masking(0.2, 50, False, np.asarray([0, 1, 2, 3]), 100)(texts, rng)
    assert (plain[chosen] == 50).all()


def test_the_mask_token_is_the_one_asked_for(base):
    source = context(base).trainee.encoder.text_tokenizer.source
    for choice, token in (("blank", "_"), ("mask", "<mask>"), ("eos", "<eos>")):
        mntp = Mntp(MntpSettings(mask_token=choice), context(base), ["text"])
        assert mntp.masking.mask_id == source.convert_tokens_to_ids(token)
    without = context(base)
    without.trainee.encoder.text_tokenizer.source.mask_token = None
    with pytest.raises(RecipeError, match=r"objectives\[0\].mask_token: the tokenizer has no mask token; choose"):
        Mntp(MntpSettings(mask_token="mask"), without, ["text"])


# Spans


def test_span_mask_is_what_magnet_says():
    spans = torch.tensor([[0, 1, 1, 0, 2, 2, 2, 0]])
    mask = visible(spans)[0]
    for i in range(8):
        for j in range(8):
            same = spans[0, i] == spans[0, j]
            expected = spans[0, j] == 0 or (same and j <= i)
            assert mask[i, j] == expected, (i, j)


def test_spans_never_touch_and_always_follow_context():
    texts = PackedTexts.of([np.arange(length) for length in (60, 33, 9, 3, 2)])
    for seed in range(20):
        rows = draw_spans(texts, 0.3, 4, np.random.default_rng(seed)).split(texts.lengths)
        for row in rows:
            assert row[0] == 0 and (row > 0).any()
            changes = [(int(a), int(b)) for a, b in zip(row, row[1:], strict=False) if a != b]
            assert all(0 in change for change in changes)
        assert 0.15 < (rows[0] > 0).float().mean() <= 0.31


@torch.no_grad()
def test_a_span_s_tokens_are_unseen_by_what_predicts_them(base):
    given = context(base)
    infill = Infill(InfillSettings(batch_tokens=48, max_tokens=24, span_share=0.3), given, ["text"])
    texts = infill._batches(0, 2)
    spans = draw_spans(texts, 0.3, 4, np.random.default_rng(0))
    layout = HybridLayout.of(texts.layout(causal=False), spans)

    def states(ids):
        return given.trainee.hidden(PackedTexts(ids, texts.lengths, texts.restore), layout)

    before = states(texts.input_ids)
    for place in spans.nonzero()[:, 0].tolist():
        ids = texts.input_ids.clone()
        ids[place] = (ids[place] + 7) % 300 + 20
        moved = (states(ids) - before).abs().amax(1) > 1e-6
        assert moved[place] and not moved[place - 1]
        assert not moved[spans == 0].any()


@pytest.mark.parametrize(
    ("architecture", "config", "message"),
    [
        ("mistral", {"sliding_window": 16}, "sliding window of 16 does not hold max_tokens=24"),
        ("gemma2", {"head_dim": 8, "sliding_window": 64}, "attn_logit_softcapping"),
    ],
)
def test_infill_says_before_the_first_step_where_its_mask_cannot_be(tmp_path, architecture, config, message):
    given = context(make_base(tmp_path, architecture, **config))
    with pytest.raises(RecipeError, match=message):
        Infill(InfillSettings(max_tokens=24), given, ["text"])


def test_infill_runs_within_a_sliding_window(tmp_path):
    given = context(make_base(tmp_path, "mistral", sliding_window=64))
    assert Infill(InfillSettings(batch_tokens=48, max_tokens=24), given, ["text"])(0, 1.0).loss.item() > 0
