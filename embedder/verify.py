"""The invariants of a trustworthy encoder, each a function that measures it on the loaded model.

The cheap ones run whenever an encoder is loaded (`check_loaded`); `verify_encoder` runs all of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from .errors import DecantError, InputError, UnsupportedModelError, VerificationError
from .measuring import (
    EXACT,
    EXACT_HALF,
    LEAK,
    PARITY,
    PARITY_HALF,
    TEXTS,
    Measurement,
    hidden_states,
    moved,
    other_id,
    random_ids,
    same,
    unit,
    vectors_of,
)
from .model_config import model_type
from .routing import recorded, repeated
from .spec import Attention
from .verify_copies import plain_copy, saved_copy
from .verify_heads import instruction_masking, normalization, router_weights, sparse_pooling

if TYPE_CHECKING:
    from .encoder import Encoder

Check = Callable[["Encoder"], Measurement]


def check_loaded(encoder: Encoder) -> list[Measurement]:
    """Run the cheap checks: a handful of forwards over some twenty tokens.

    Raises:
        VerificationError: naming the first invariant that does not hold.
    """
    return _run(encoder, (future_leak, attention_coverage, neighbour_leak, reference_parity), stop=True)


def verify_encoder(encoder: Encoder) -> list[Measurement]:
    """Measure every invariant; the caller decides what a failure means."""
    return _run(encoder, ALL_CHECKS, stop=False)


def _run(encoder: Encoder, checks: tuple[Check, ...], *, stop: bool) -> list[Measurement]:
    results: list[Measurement] = []
    for check in checks:
        try:
            result = check(encoder)
        except DecantError:
            raise
        except Exception as error:
            # An architecture nobody measured fails inside its own code, with whatever error its authors chose.
            family = model_type(encoder.backbone.model.config)
            why = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise UnsupportedModelError(
                f"{family} does not run on packed batches ({why}): choose another model"
            ) from error
        results.append(result)
        if stop and not result.passed:
            raise VerificationError(
                f"{encoder.path} breaks the invariant '{result.name}': {result.detail} "
                f"({result.value:.3g}, bound {result.bound:.3g}); its vectors cannot be trusted"
            )
    return results


@torch.inference_mode()
def future_leak(encoder: Encoder) -> Measurement:
    """Measure how far early hidden states move when only the last token changes.

    A bidirectional encoder's must move, a causal one's must not (METHODS 3.1; the fault behind McGill-NLP/llm2vec#74).
    """
    row = random_ids(encoder, (12,))[0]
    changed = row.clone()
    changed[-1] = other_id(encoder, int(row[-1]))
    states = [hidden_states(encoder, [ids]) for ids in (row, changed)]
    move = (states[0] - states[1])[: len(row) // 2].abs().amax().item()
    if encoder.spec.attention is Attention.BIDIRECTIONAL:
        return Measurement("future leak", move, LEAK, move > LEAK, "early states must see the last token")
    return Measurement("future leak", move, LEAK, move <= LEAK, "early states must not see the last token")


@torch.inference_mode()
def attention_coverage(encoder: Encoder) -> Measurement:
    """Count the layers that attend through the packed implementation; a hybrid's other layers mix tokens elsewhere."""
    layers = int(encoder.backbone.config.num_hidden_layers)
    if encoder.backbone.engine != "packed":
        return Measurement("attention coverage", 1.0, 1.0, True, "transformers' own attention, equal-length batches")
    trace: list[nn.Module] = []
    ids = random_ids(encoder, (5,))[0]
    encoder.backbone(ids, encoder.backbone.layout([len(ids)], trace=trace))
    calls = Counter(id(module) for module in trace)
    # ALBERT runs one layer's weights again and again; elsewhere a layer that attends twice makes up for no other.
    shared = len(set(calls.values())) == 1 and len(trace) == layers
    share = 1.0 if shared else len(calls) / layers
    return Measurement("attention coverage", share, 1.0, share == 1.0, "share of layers that attend to packed batches")


@torch.inference_mode()
def neighbour_leak(encoder: Encoder) -> Measurement:
    """Measure how far a text's hidden states move when its neighbours in the packed batch are exchanged."""
    first, middle, last = random_ids(encoder, (7, 5, 7))
    others = [torch.full_like(ids, other_id(encoder, int(ids[0]))) for ids in (first, last)]
    own = slice(len(first), len(first) + len(middle))
    states = [hidden_states(encoder, [a, middle, b])[own] for a, b in ((first, last), (others[0], others[1]))]
    move = (states[0] - states[1]).abs().amax().item()
    return Measurement("neighbour leak", move, EXACT, move <= EXACT, "other texts of a batch must not move a state")


@torch.inference_mode()
def reference_parity(encoder: Encoder) -> Measurement:
    """Compare packed hidden states with the same model run text by text through transformers' own attention."""
    return _against_transformers(encoder, "reference parity", (9, 9, 4, 1), "packed against transformers, text by text")


@torch.inference_mode()
def window_parity(encoder: Encoder) -> Measurement:
    """Compare packed hidden states with transformers' on a text that is longer than the sliding window reaches.

    The probes of `reference_parity` fit into any window of a real model, so they cannot see a window that is off.
    """
    name, detail = "window parity", "packed against transformers, beyond the sliding window"
    window = getattr(encoder.backbone.config, "sliding_window", None)
    if encoder.backbone.engine != "packed" or not isinstance(window, int) or window + 2 > encoder.max_tokens:
        return Measurement(name, 0.0, PARITY, True, "no text reaches beyond a sliding window")
    return _against_transformers(encoder, name, (window + 3, 3), detail)


def _against_transformers(encoder: Encoder, name: str, lengths: tuple[int, ...], detail: str) -> Measurement:
    """Compare states of a packed batch with those of each row alone; in half precision by the same experts."""
    rows, model = random_ids(encoder, lengths), encoder.backbone.model
    with recorded(model) as said:
        packed = hidden_states(encoder, rows)
    exact = encoder.backbone.number_format == "float32"
    with encoder.backbone.transformers_attention(), repeated([] if exact else said):
        alone = torch.cat([hidden_states(encoder, [row]) for row in rows])
    return same(encoder, name, {"states": packed.numpy()}, {"states": alone.numpy()}, (PARITY, PARITY_HALF), detail)


def batch_invariance(encoder: Encoder) -> Measurement:
    """Encode the same texts alone, together, reversed, and under tight and wide token budgets; every representation."""
    texts = list(TEXTS)
    together = vectors_of(encoder, texts)
    alone = [vectors_of(encoder, [text]) for text in texts]
    reverse, tight = vectors_of(encoder, texts[::-1]), vectors_of(encoder, texts, batch_tokens=1)
    wide = vectors_of(encoder, texts * 3, batch_tokens=64)
    variants = [
        {name: np.concatenate([one[name] for one in alone]) for name in together},
        {name: reverse[name][::-1] for name in together},
        tight,
        {name: wide[name][: len(texts)] for name in together},
    ]
    detail = "alone, together, reversed, any token budget"
    results = [same(encoder, "batch invariance", v, together, (EXACT, EXACT_HALF), detail) for v in variants]
    return max(results, key=lambda result: (not result.passed, result.value))


def determinism(encoder: Encoder) -> Measurement:
    """Encode twice in turn and from four threads at once; every result must be the same to the last bit."""
    texts = list(TEXTS)
    once = vectors_of(encoder, texts)
    with ThreadPoolExecutor(4) as pool:
        futures = [pool.submit(vectors_of, encoder, texts) for _ in range(8)]
        runs = [vectors_of(encoder, texts), *(future.result() for future in futures)]
    worst = max(moved(run, once) for run in runs)
    return Measurement("determinism", worst, 0.0, worst == 0.0, "repeated and from four threads")


def input_order(encoder: Encoder) -> Measurement:
    """Check that row i belongs to text i: each row must be nearest to the vector of its own text alone."""
    texts = list(TEXTS)
    together, singles = vectors_of(encoder, texts), [vectors_of(encoder, [text]) for text in texts]
    shares: list[float] = []
    for name, vectors in together.items():
        rows, alone = unit(vectors), unit(np.concatenate([single[name] for single in singles]))
        shares.append(float(np.mean((rows * alone).sum(1) >= (rows @ alone.T).max(1) - EXACT_HALF)))
    share = min(shares)
    return Measurement("input order", share, 1.0, share == 1.0, "share of rows nearest to their own text")


def truncation(encoder: Encoder) -> Measurement:
    """Check that a text that is too long is reported, or refused where that is asked for."""
    long = "word " * (encoder.max_tokens + 8)
    reported = bool(encoder.encode([long, "short"]).truncated.tolist() == [True, False])
    try:
        encoder.encode([long], truncate="error")
        refused = False
    except InputError:
        refused = True
    value = (reported + refused) / 2
    return Measurement("truncation", value, 1.0, value == 1.0, "reported by default, refused on demand")


ALL_CHECKS: tuple[Check, ...] = (
    future_leak,
    attention_coverage,
    neighbour_leak,
    reference_parity,
    window_parity,
    batch_invariance,
    determinism,
    input_order,
    instruction_masking,
    sparse_pooling,
    router_weights,
    normalization,
    truncation,
    saved_copy,
    plain_copy,
)
