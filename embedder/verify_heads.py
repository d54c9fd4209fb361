"""Checks of what stands behind the backbone: pooling, sparse terms, router vectors, unit length."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from .calibration import STILL
from .measuring import (
    EXACT,
    PARITY,
    PARITY_HALF,
    SPARSE_HALF,
    TEXTS,
    Measurement,
    hidden_states,
    moved,
    representations,
    same,
    vectors_of,
)
from .rewriting import rewritten
from .spec import Pooling, PromptSpan
from .tokenization import TokenizedTexts

if TYPE_CHECKING:
    from .encoder import Encoder


@torch.inference_mode()
def instruction_masking(encoder: Encoder) -> Measurement:
    """Compare `encode` with vectors pooled from the first token behind the prompt, found here by its characters.

    Where a prompt is attended to and not pooled, this fails if a single one of its tokens is.
    """
    name, detail = "instruction masking", "prompt tokens are attended to and not pooled"
    spec = encoder.spec
    kinds = [kind for kind in spec.prompts if spec.prompt(kind, None) or spec.prompt_span is PromptSpan.TEXT]
    if not kinds or spec.include_prompt:
        return Measurement(name, 0.0, EXACT, True, "the spec pools prompts, or has none")
    worst = 0.0
    for kind in kinds:
        template = spec.template(kind)
        for text in TEXTS:
            text = rewritten(text, spec.rewrite)
            prompt = template.before(text)
            words = {i for i, letter in enumerate(prompt) if not letter.isspace()}
            tokenized = encoder.text_tokenizer([text], template)
            encoding = encoder.tokenizer.encode(template.wrap(text), add_special_tokens=spec.add_special_tokens)
            owners = [set(range(*span)) for span in encoding.offsets]
            first = next(
                i for i, span in enumerate(owners) if max(span, default=-1) >= len(prompt) and not span & words
            )
            if spec.prompt_span is PromptSpan.TOKENS:
                first = max(first, int(tokenized.pool_from[0]))
            elif spec.prompt_span is PromptSpan.BARE_TOKENS:  # the prompt's last tokens stay, as many as are in front
                first = max(first - len(encoder.text_tokenizer.opening), int(tokenized.pool_from[0]))
            by_hand = TokenizedTexts(tokenized.ids, np.array([first], np.int32), tokenized.truncated)
            expected = representations(encoder.represent(by_hand, encoder.outputs))
            worst = max(worst, moved(vectors_of(encoder, [text], kind=kind), expected))
    return Measurement(name, worst, EXACT, worst <= EXACT, detail)


@torch.inference_mode()
def sparse_pooling(encoder: Encoder) -> Measurement:
    """Compare sparse rows with the head applied text by text to the states of ordinary tokens alone.

    This fails if a BOS takes part: trained decoders gather attention there, and its logits win every maximum.
    """
    name, detail = "sparse pooling", "terms of ordinary tokens only, largest weight of each"
    head, sparse = encoder.sparse_head, encoder.spec.sparse
    if head is None or sparse is None:
        return Measurement(name, 0.0, PARITY, True, "the spec has no sparse head")
    barred = set() if sparse.special_tokens else set(encoder.text_tokenizer.source.all_special_ids)
    rows = encoder.encode(list(TEXTS), outputs=("sparse",)).sparse
    assert rows is not None
    tokenized = encoder.text_tokenizer(list(TEXTS), encoder.spec.template("document"))
    pairs: list[tuple[Tensor, Tensor]] = []
    for i, ids in enumerate(tokenized.ids):
        hidden = hidden_states(encoder, [torch.from_numpy(ids).long().to(encoder.backbone.device)])
        plain = [t for t in range(int(tokenized.pool_from[i]), len(ids)) if int(ids[t]) not in barred]
        if sparse.shifted:
            plain = [t - 1 for t in plain if t > 0]
        states = head.lm_head.states(hidden[plain].to(encoder.backbone.device)).float().cpu()
        weight, bias = head.lm_head.weight.float().cpu(), head.lm_head.bias
        logits = states @ weight.T + (0.0 if bias is None else bias.float().cpu())
        logits = logits if plain else torch.zeros(1, head.terms)
        expected = head.lm_head.adjust(logits).relu().log1p().amax(0)
        expected = expected.log1p() if sparse.double_log else expected
        got = torch.from_numpy(rows[[i]].toarray()[0])
        allowed = torch.tensor(
            [term not in barred and term < encoder.tokenizer.get_vocab_size() for term in range(len(got))]
        )
        expected = expected * allowed
        if sparse.top_k is not None and sparse.top_k < len(got):  # of equal weights either may be kept
            got, expected = got.topk(sparse.top_k).values, expected.topk(sparse.top_k).values
        pairs.append((got, expected))
    got, expected = (torch.stack(rows).numpy() for rows in zip(*pairs, strict=True))
    return same(encoder, name, {"sparse": got}, {"sparse": expected}, (PARITY, SPARSE_HALF), detail)


@torch.inference_mode()
def router_weights(encoder: Encoder) -> Measurement:
    """Compare router vectors with transformers' own router logits, each text alone, softmax and calibration by hand.

    This fails if a vector is standardised by its batch, as in MoEE's published code, or if a softmax is taken twice.
    """
    name, detail = "router weights", "softmax of transformers' router logits, by stored statistics only"
    head, spec = encoder.router_head, encoder.spec.router
    if head is None or spec is None:
        return Measurement(name, 0.0, PARITY, True, "the spec has no router vectors")
    tokenized = encoder.text_tokenizer(list(TEXTS), encoder.spec.template("document"))
    rows: list[Tensor] = []
    with encoder.backbone.transformers_attention():
        for ids, start in zip(tokenized.ids, tokenized.pool_from.tolist(), strict=True):
            batch = torch.from_numpy(ids).long().to(encoder.backbone.device)[None]
            options = {"attention_mask": torch.ones_like(batch), "use_cache": False, "output_router_logits": True}
            layers = encoder.backbone.model(input_ids=batch, **options).router_logits
            weights = [logits.reshape(len(ids), -1).float().cpu().exp() for logits in layers]
            shares = torch.cat([weight / weight.sum(-1, keepdim=True) for weight in weights], dim=-1)
            rows.append(shares[start:].mean(0) if spec.pooling is Pooling.MEAN else shares[-1])
    expected = torch.stack(rows)
    if spec.calibrated and head.calibration:
        mean, std = head.calibration.mean.cpu(), head.calibration.std.cpu()
        expected = torch.where(std > STILL, (expected - mean) / std, 0.0)
    if spec.normalize:
        expected = expected / expected.norm(dim=-1, keepdim=True).clamp_min(1e-12)
    got = encoder.encode(list(TEXTS), outputs=("router",)).router
    assert got is not None
    return same(encoder, name, {"router": got}, {"router": expected.numpy()}, (PARITY, PARITY_HALF), detail)


def normalization(encoder: Encoder) -> Measurement:
    """Measure how far vectors are from unit norm, at every width the model offers."""
    if not encoder.spec.normalize or encoder.spec.pooling is Pooling.NONE:
        return Measurement("unit norm", 0.0, EXACT, True, "the spec does not normalise")
    widths = {None, *encoder.spec.dimensions}
    off = 0.0
    for width in widths:
        dense = encoder.encode(list(TEXTS), dimensions=width).dense
        assert dense is not None
        off = max(off, float(np.abs(np.linalg.norm(dense, axis=1) - 1).max()))
    return Measurement("unit norm", off, EXACT, off <= EXACT, "at every Matryoshka width")
