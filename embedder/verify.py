"""The invariants of a trustworthy encoder, each a function that measures it on the loaded model.

The cheap ones run whenever an encoder is loaded (`check_loaded`); `verify_encoder` runs all of them.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from .backbone import model_type
from .errors import DecantError, InputError, UnsupportedModelError, VerificationError
from .spec import Attention, PromptSpan
from .tokenization import TokenizedTexts

if TYPE_CHECKING:
    from .encoder import Encoder

# A fully causal MoE model moves by 1e-7 when its last token changes; a bidirectional one by far more than this.
LEAK = 1e-4
# Largest difference between two computations of the same float32 vector, by us, and by us and another implementation.
EXACT = 1e-6
PARITY = 1e-5
# The same for half precision, where 1 - cosine is measured instead: rounding alone moves single dimensions by 1e-2.
EXACT_HALF = 1e-4
PARITY_HALF = 1e-3
# Largest difference of a term's weight in half precision, where a logit of 10 is rounded to 0.04.
SPARSE_HALF = 2e-2

TEXTS: tuple[str, ...] = (
    "Rivers carry water from the mountains to the sea.",
    "Short text.",
    "The committee met on Tuesday, discussed the budget for three hours, and adjourned without taking a decision.",
    "a",
    "def add(a, b):\n    return a + b",
    "Short test.",
)


@dataclass(frozen=True)
class Measurement:
    """One invariant, measured.

    Attributes:
        name: the invariant.
        value: what was measured.
        bound: what it is compared with.
        passed: whether the invariant holds.
        detail: what the value means, in a few words.
    """

    name: str
    value: float
    bound: float
    passed: bool
    detail: str


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
    row = _random_ids(encoder, (12,))[0]
    changed = row.clone()
    changed[-1] = _other_id(encoder, int(row[-1]))
    states = [_hidden(encoder, [ids]) for ids in (row, changed)]
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
    ids = _random_ids(encoder, (5,))[0]
    encoder.backbone(ids, encoder.backbone.layout([len(ids)], trace=trace))
    share = len({id(module) for module in trace}) / layers
    return Measurement("attention coverage", share, 1.0, share == 1.0, "share of layers that attend to packed batches")


@torch.inference_mode()
def neighbour_leak(encoder: Encoder) -> Measurement:
    """Measure how far a text's hidden states move when its neighbours in the packed batch are exchanged."""
    first, middle, last = _random_ids(encoder, (7, 5, 7))
    others = [torch.full_like(ids, _other_id(encoder, int(ids[0]))) for ids in (first, last)]
    own = slice(len(first), len(first) + len(middle))
    states = [_hidden(encoder, [a, middle, b])[own] for a, b in ((first, last), (others[0], others[1]))]
    move = (states[0] - states[1]).abs().amax().item()
    return Measurement("neighbour leak", move, EXACT, move <= EXACT, "other texts of a batch must not move a state")


@torch.inference_mode()
def reference_parity(encoder: Encoder) -> Measurement:
    """Compare packed hidden states with the same model run text by text through transformers' own attention."""
    rows = _random_ids(encoder, (9, 9, 4, 1))
    packed = _hidden(encoder, rows)
    with encoder.backbone.transformers_attention():
        alone = torch.cat([_hidden(encoder, [row]) for row in rows])
    detail = "packed against transformers, text by text"
    return _same(encoder, "reference parity", packed.numpy(), alone.numpy(), (PARITY, PARITY_HALF), detail)


@torch.inference_mode()
def window_parity(encoder: Encoder) -> Measurement:
    """Compare packed hidden states with transformers' on a text that is longer than the sliding window reaches.

    The probes of `reference_parity` fit into any window of a real model, so they cannot see a window that is off.
    """
    name, detail = "window parity", "packed against transformers, beyond the sliding window"
    window = getattr(encoder.backbone.config, "sliding_window", None)
    if encoder.backbone.engine != "packed" or not isinstance(window, int) or window + 2 > encoder.max_tokens:
        return Measurement(name, 0.0, PARITY, True, "no text reaches beyond a sliding window")
    rows = _random_ids(encoder, (window + 3, 3))
    packed = _hidden(encoder, rows)
    with encoder.backbone.transformers_attention():
        alone = torch.cat([_hidden(encoder, [row]) for row in rows])
    return _same(encoder, name, packed.numpy(), alone.numpy(), (PARITY, PARITY_HALF), detail)


def batch_invariance(encoder: Encoder) -> Measurement:
    """Encode the same texts alone, together, reversed, and under tight and wide token budgets."""
    texts = list(TEXTS)
    together = _dense(encoder, texts)
    variants = [
        np.concatenate([_dense(encoder, [text]) for text in texts]),
        _dense(encoder, texts[::-1])[::-1],
        _dense(encoder, texts, batch_tokens=1),
        _dense(encoder, texts * 3, batch_tokens=64)[: len(texts)],
    ]
    worst = max(variants, key=lambda v: float(np.abs(v - together).max()))
    detail = "alone, together, reversed, any token budget"
    return _same(encoder, "batch invariance", worst, together, (EXACT, EXACT_HALF), detail)


def determinism(encoder: Encoder) -> Measurement:
    """Encode twice in turn and from four threads at once; every result must be the same to the last bit."""
    texts = list(TEXTS)
    once = _dense(encoder, texts)
    with ThreadPoolExecutor(4) as pool:
        futures = [pool.submit(_dense, encoder, texts) for _ in range(8)]
        runs = [_dense(encoder, texts), *(future.result() for future in futures)]
    moved = max(float(np.abs(run - once).max()) for run in runs)
    return Measurement("determinism", moved, 0.0, moved == 0.0, "repeated and from four threads")


def input_order(encoder: Encoder) -> Measurement:
    """Check that row i belongs to text i: each row must be nearest to the vector of its own text alone."""
    texts = list(TEXTS)
    together = _unit(_dense(encoder, texts))
    alone = _unit(np.concatenate([_dense(encoder, [text]) for text in texts]))
    own = (together * alone).sum(1)
    share = float(np.mean(own >= (together @ alone.T).max(1) - EXACT_HALF))
    return Measurement("input order", share, 1.0, share == 1.0, "share of rows nearest to their own text")


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
            expected = encoder.encode_tokens(by_hand)
            worst = max(worst, float(np.abs(_dense(encoder, [text], kind=kind) - expected).max()))
    return Measurement(name, worst, EXACT, worst <= EXACT, detail)


@torch.inference_mode()
def sparse_pooling(encoder: Encoder) -> Measurement:
    """Compare sparse rows with the head applied text by text to the states of ordinary tokens alone.

    This fails if a BOS takes part: trained decoders gather attention there, and its logits win every maximum.
    """
    name, head, sparse = "sparse pooling", encoder.sparse_head, encoder.spec.sparse
    if head is None or sparse is None:
        return Measurement(name, 0.0, PARITY, True, "the spec has no sparse head")
    barred = set() if sparse.special_tokens else set(encoder.text_tokenizer.source.all_special_ids)
    rows = encoder.encode(list(TEXTS), outputs=("sparse",)).sparse
    assert rows is not None
    tokenized = encoder.text_tokenizer(list(TEXTS), encoder.spec.template("document"))
    worst = 0.0
    for i, ids in enumerate(tokenized.ids):
        hidden = _hidden(encoder, [torch.from_numpy(ids).long().to(encoder.backbone.device)])
        plain = [t for t in range(int(tokenized.pool_from[i]), len(ids)) if int(ids[t]) not in barred]
        weight, bias = head.lm_head.weight.float().cpu(), head.lm_head.bias
        logits = hidden[plain] @ weight.T + (0.0 if bias is None else bias.float().cpu())
        expected = head.lm_head.adjust(logits).relu().log1p().amax(0)
        expected = expected.log1p() if sparse.double_log else expected
        got = torch.from_numpy(rows[[i]].toarray()[0])
        allowed = torch.tensor(
            [term not in barred and term < encoder.tokenizer.get_vocab_size() for term in range(len(got))]
        )
        expected = expected * allowed
        if sparse.top_k is not None and sparse.top_k < len(got):  # of equal weights either may be kept
            got, expected = got.topk(sparse.top_k).values, expected.topk(sparse.top_k).values
        worst = max(worst, float((got - expected).abs().max()) / max(1.0, float(expected.max())))
    bound = PARITY if encoder.backbone.dtype is torch.float32 else SPARSE_HALF
    return Measurement(name, worst, bound, worst <= bound, "terms of ordinary tokens only, largest weight of each")


def normalization(encoder: Encoder) -> Measurement:
    """Measure how far vectors are from unit norm, at every width the model offers."""
    if not encoder.spec.normalize:
        return Measurement("unit norm", 0.0, EXACT, True, "the spec does not normalise")
    widths = {None, *encoder.spec.dimensions}
    off = 0.0
    for width in widths:
        dense = encoder.encode(list(TEXTS), dimensions=width).dense
        assert dense is not None
        off = max(off, float(np.abs(np.linalg.norm(dense, axis=1) - 1).max()))
    return Measurement("unit norm", off, EXACT, off <= EXACT, "at every Matryoshka width")


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


def saved_copy(encoder: Encoder) -> Measurement:
    """Save the encoder, load the copy in the same number format, and compare the vectors bit by bit."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "copy"
        encoder.save(copy)
        again = type(encoder).load(copy, device=encoder.backbone.device, dtype=encoder.backbone.dtype, verify=False)
        moved = float(np.abs(_dense(again, list(TEXTS)) - _dense(encoder, list(TEXTS))).max())
    return Measurement("saved copy", moved, 0.0, moved == 0.0, "save, load, encode: the same bytes")


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
    normalization,
    truncation,
    saved_copy,
)


def _random_ids(encoder: Encoder, lengths: tuple[int, ...]) -> list[Tensor]:
    """Make rows of seeded token ids, away from both ends of the vocabulary, where special tokens live."""
    size = encoder.backbone.embedding_rows
    generator = torch.Generator().manual_seed(0)
    low, high = size // 8, max(size - size // 8, size // 8 + 2)
    longest = encoder.max_tokens
    rows = [torch.randint(low, high, (min(n, longest),), generator=generator) for n in lengths]
    return [row.to(encoder.backbone.device) for row in rows]


def _other_id(encoder: Encoder, token: int) -> int:
    size = encoder.backbone.embedding_rows
    return size // 2 if token != size // 2 else size // 2 + 1


def _hidden(encoder: Encoder, rows: list[Tensor]) -> Tensor:
    """Hidden states of rows packed in this order, (total_tokens, H) float32 on the CPU."""
    layout = encoder.backbone.layout([len(row) for row in rows])
    return encoder.backbone(torch.cat(rows), layout).float().cpu()


def _dense(
    encoder: Encoder, texts: list[str], *, kind: str = "document", batch_tokens: int | None = None
) -> NDArray[np.float32]:
    dense = encoder.encode(texts, kind=kind, batch_tokens=batch_tokens).dense
    assert dense is not None
    return dense


def _unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def _same(
    encoder: Encoder,
    name: str,
    got: NDArray[np.float32],
    want: NDArray[np.float32],
    bounds: tuple[float, float],
    detail: str,
) -> Measurement:
    """Judge (N, D) rows: float32 by the largest difference, relative where values exceed 1; half by 1 - cosine."""
    if encoder.backbone.dtype is torch.float32:
        value, bound = float(np.abs(got - want).max()) / max(1.0, float(np.abs(want).max())), bounds[0]
    else:
        value, bound = max(0.0, 1 - float((_unit(got) * _unit(want)).sum(1).min())), bounds[1]
    return Measurement(name, value, bound, value <= bound, detail)
