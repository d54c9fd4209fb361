"""A BERT encoder's weights turned into a Llama decoder's, in closed form, one sublayer after the other.

BERT norms a sum behind each sublayer (h = g * s_hat + b, where s_hat is s = h' + f(h') less its mean, over its standard
deviation); Llama adds up a stream r that is normed for reading only. The stream is made to run along a * s_hat, one
scale a for each channel and sublayer; as a step of the teacher multiplies by g over the deviation, a is divided by it.
The norms' weights carry g / a. Two ridge regressions a sublayer do the rest, on the states that the student itself
has there, so that each makes good what those before it missed:

- reading: h from the normed stream; it goes into the matrices that read (queries, keys, values, gate);
- writing: what takes the stream to a * s_hat, from what the sublayer computes; it is the matrix that writes.

GELU is SiLU to within 0.02: x * sigmoid(1.702 x) (Hendrycks and Gimpel 2016), a SwiGLU whose second factor is constant
at first. Learned positions have no place in a Llama; the fit does without, and rotary frequencies are laid over each
head's coordinates so that the fast ones turn those that matter least. What positions did is left to training.

Starting a student from its teacher's layers is DistilBERT's way (Sanh et al. 2019, arXiv 1910.01108); the map between
the two architectures is this project's own.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import BertModel, LlamaConfig, LlamaForCausalLM
from transformers.models.bert.modeling_bert import BertLayer
from transformers.models.llama.modeling_llama import LlamaDecoderLayer, apply_rotary_pos_emb

from ...kernels.attention import packed_attention, register
from ..model_config import set_attention
from ..spec import Attention
from .packed_texts import PackedTexts
from .recipe import InheritRecipe
from .settings import RecipeError

_GELU = 1.702
_CHUNK = 8_192


def inherit(
    teacher: BertModel, texts: PackedTexts, rows: Tensor, recipe: InheritRecipe
) -> tuple[LlamaForCausalLM, Tensor]:
    """Makes a bidirectional Llama whose last states are the teacher's, as nearly as can be.

    Args:
        teacher: float32; its texts are pooled by the mean. Everything is computed where it is.
        texts: what the regressions are fitted on, in the student's token ids; some 100 tokens a hidden unit.
        rows: (V,) int64, the teacher's id of each of the student's tokens.
        recipe: the student's sizes.

    Returns:
        The student, and the principal axes of the text vectors, (D, D) float32, the largest first; both where the
        teacher is.

    Raises:
        RecipeError: the teacher is no BERT with GELU, or narrower inside than the student is to be.
    """
    config = teacher.config
    if config.hidden_act != "gelu":
        raise RecipeError(f"inherit: the teacher's activation is {config.hidden_act}, and only gelu has a SwiGLU")
    if recipe.intermediate > config.intermediate_size:
        raise RecipeError(f"intermediate: {recipe.intermediate} is more than the teacher's {config.intermediate_size}")
    texts, rows = texts.to(teacher.device), rows.to(teacher.device)
    with torch.no_grad():
        theirs = PackedTexts(rows[texts.input_ids], texts.lengths, texts.restore)
        spreads, axes = _measure(teacher, theirs)
        student = _empty_student(config, len(rows), recipe)
        cast(nn.Module, student).to(teacher.device)
        _Fit(teacher, student, texts, spreads, recipe).run(rows)
    set_attention(student.config, Attention.BIDIRECTIONAL)
    student.set_attn_implementation(register())
    return student, axes


@dataclass(frozen=True)
class _Sublayer:
    """What one sublayer of the teacher computes.

    Attributes:
        state: (tokens, D), what it reads.
        inner: the activations inside a feed-forward layer, (tokens, I); None of an attention.
        sum: (tokens, D), what its norm reads.
    """

    state: Tensor
    inner: Tensor | None
    sum: Tensor


def _sublayers(teacher: BertModel, texts: PackedTexts) -> Iterator[_Sublayer]:
    """The teacher's forward, one sublayer at a time, for all of them do not fit into memory."""
    layout = texts.layout(causal=False)
    h = teacher.embeddings(texts.input_ids[None], position_ids=layout.position_ids()[None])[0]
    for layer in _layers(teacher):
        attention, heads = layer.attention, layer.attention.self.num_attention_heads
        q, k, v = (_heads(p(h), heads) for p in (attention.self.query, attention.self.key, attention.self.value))
        context = packed_attention(q, k, v, layout, scale=q.shape[-1] ** -0.5).flatten(1)
        total = h + attention.output.dense(context)
        yield _Sublayer(h, None, total)
        h = attention.output.LayerNorm(total)
        inner = layer.intermediate(h)
        total = h + layer.output.dense(inner)
        yield _Sublayer(h, inner, total)
        h = layer.output.LayerNorm(total)


def _norms(teacher: BertModel) -> list[nn.LayerNorm]:
    return [norm for layer in _layers(teacher) for norm in (layer.attention.output.LayerNorm, layer.output.LayerNorm)]


def _measure(teacher: BertModel, texts: PackedTexts) -> tuple[list[Tensor], Tensor]:
    """Each sum's typical standard deviation, and the axes of the text vectors, (D, D), the largest first."""
    spreads, last = list[Tensor](), texts.input_ids.new_empty(0)
    for sublayer in _sublayers(teacher, texts):
        spreads.append(sublayer.sum.std(1, unbiased=False).median())
        last = sublayer.sum
    pooled = torch.stack([part.mean(0) for part in _norms(teacher)[-1](last).split(texts.lengths)])
    unit = F.normalize(pooled, dim=1).double()
    return spreads, torch.linalg.eigh(unit.T @ unit).eigenvectors.flip(1).T.float()


class _Fit:
    """The student, filled sublayer by sublayer, and the stream that it has so far."""

    def __init__(
        self,
        teacher: BertModel,
        student: LlamaForCausalLM,
        texts: PackedTexts,
        spreads: list[Tensor],
        recipe: InheritRecipe,
    ) -> None:
        self._teacher, self._student, self._recipe, self._texts = teacher, student, recipe, texts
        self._spreads, self._layout, self._theirs = spreads, texts.layout(causal=False), _norms(teacher)
        self._ours = [n for b in _blocks(student) for n in (b.input_layernorm, b.post_attention_layernorm)]
        self._scales = self._stream_scales()

    def run(self, rows: Tensor) -> None:
        """Fills the student; `rows` as of `inherit`."""
        embedding = cast(nn.Embedding, self._student.get_input_embeddings())
        embedding.weight.copy_(_centred(self._bare_embeddings(rows)) * self._scales[0])
        self._stream = embedding(self._texts.input_ids)
        texts = PackedTexts(rows[self._texts.input_ids], self._texts.lengths, self._texts.restore)
        layers, blocks = list(_layers(self._teacher)), list(_blocks(self._student))
        for place, sublayer in enumerate(_sublayers(self._teacher, texts)):
            fill = self._attention if sublayer.inner is None else self._feed_forward
            self._write(place, sublayer, *fill(place, sublayer, layers[place // 2], blocks[place // 2]))
        norm = self._student.model.norm
        norm.weight.copy_(_gain(self._theirs[-1]) / self._scales[-1])
        # A norm has no bias here. This changes lengths only, so that states are of the teacher's size.
        norm.weight.mul_(self._scales[-1].square().mean().sqrt())
        # Norms make the stream's unit free; with this one an optimiser's steps are small beside the weights.
        unit = embedding.weight.square().mean().rsqrt()
        for block in blocks:
            for linear in (block.self_attn.o_proj, block.mlp.down_proj):
                _fill(linear, linear.weight * unit, cast(Tensor, linear.bias) * unit)
        embedding.weight.mul_(unit)

    def _stream_scales(self) -> list[Tensor]:
        """Each sublayer's a, (D,): 1 halfway, so that no channel is much larger than others at either end."""
        scales = [torch.ones_like(self._theirs[0].weight)]
        for norm, spread in zip(self._theirs[-2::-1], self._spreads[-2::-1], strict=True):
            scales.append(scales[-1] * _gain(norm) / spread)
        scales.reverse()
        middle = scales[len(scales) // 2]
        return [scale / middle for scale in scales]

    def _bare_embeddings(self, rows: Tensor) -> Tensor:
        """(V, D), each token at an average position."""
        e = self._teacher.embeddings
        typical = e.position_embeddings.weight[1 : self._layout.max_seqlen].mean(0)
        return e.LayerNorm(e.word_embeddings.weight[rows] + e.token_type_embeddings.weight[0] + typical)

    def _attention(
        self, place: int, sublayer: _Sublayer, theirs: BertLayer, block: LlamaDecoderLayer
    ) -> tuple[Tensor, nn.Linear]:
        """Fills all but the matrix that writes; returns what that one reads, and it."""
        normed, read = self._read(place, sublayer.state)
        them, ours = theirs.attention.self, block.self_attn
        query, key, value = (_behind(linear, read) for linear in (them.query, them.key, them.value))
        _fill(ours.v_proj, *value)
        jitter = 1e-6 * torch.eye(normed.shape[1], dtype=torch.float64, device=normed.device)
        root = torch.linalg.cholesky(_covariance(normed) + jitter)
        for head in torch.arange(query[0].shape[0], device=normed.device).split(ours.head_dim):
            for_queries, for_keys = slow_to_fast(query[0][head], key[0][head], root)
            _fill(ours.q_proj, for_queries @ query[0][head], for_queries @ query[1][head], head)
            _fill(ours.k_proj, for_keys @ key[0][head], for_keys @ key[1][head], head)
        heads = them.num_attention_heads
        q, k, v = (_heads(p(normed), heads) for p in (ours.q_proj, ours.k_proj, ours.v_proj))
        turns = self._student.model.rotary_emb(q, self._layout.position_ids()[None])
        q, k = (x[0] for x in apply_rotary_pos_emb(q[None], k[None], *turns))
        context = packed_attention(q, k, v, self._layout, scale=ours.head_dim**-0.5).flatten(1)
        return context, ours.o_proj

    def _feed_forward(
        self, place: int, sublayer: _Sublayer, theirs: BertLayer, block: LlamaDecoderLayer
    ) -> tuple[Tensor, nn.Linear]:
        """As `_attention`."""
        normed, read = self._read(place, sublayer.state)
        ours = block.mlp
        weight, bias = _behind(theirs.intermediate.dense, read)
        effect = cast(Tensor, sublayer.inner).std(0) * theirs.output.dense.weight.norm(dim=0)
        kept = effect.topk(self._recipe.intermediate).indices.sort().values
        _fill(ours.gate_proj, _GELU * weight[kept], _GELU * bias[kept])
        cast(Tensor, ours.up_proj.bias).fill_(1 / _GELU)
        return F.silu(ours.gate_proj(normed)) * ours.up_proj(normed), ours.down_proj

    def _read(self, place: int, state: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """The normed stream, and the affine map from it to the teacher's state."""
        gain = _gain(self._theirs[place - 1]) / self._scales[place - 1] if place else 1 / self._scales[0]
        self._ours[place].weight.copy_(gain / gain.square().mean().sqrt())
        normed = self._ours[place](self._stream)
        return normed, ridge(normed, state, self._recipe.ridge)

    def _write(self, place: int, sublayer: _Sublayer, features: Tensor, linear: nn.Linear) -> None:
        """Fits `linear` so that it takes the stream to where the teacher's next state is read, and goes there."""
        norm = self._theirs[place]
        last = norm is self._theirs[-1]
        target = norm(sublayer.sum) / _gain(norm) if last else F.layer_norm(sublayer.sum, sublayer.sum.shape[-1:])
        target = self._spreads[place] * self._scales[place] * target
        _fill(linear, *ridge(features, target - self._stream, self._recipe.ridge))
        self._stream = self._stream + linear(features)


def ridge(inputs: Tensor, outputs: Tensor, strength: float) -> tuple[Tensor, Tensor]:
    """Weight (O, I) and bias (O,) of the affine map from (N, I) to (N, O) with the least square error.

    Args:
        inputs: float32.
        outputs: float32.
        strength: penalty on the squared weights, in units of the inputs' mean variance.
    """
    centre, aim = inputs.mean(0), outputs.mean(0)
    square = inputs.new_zeros(inputs.shape[1], inputs.shape[1], dtype=torch.float64)
    cross = inputs.new_zeros(inputs.shape[1], outputs.shape[1], dtype=torch.float64)
    for x, y in zip(inputs.split(_CHUNK), outputs.split(_CHUNK), strict=True):
        x, y = x - centre, y - aim
        square += (x.T @ x).double()
        cross += (x.T @ y).double()
    square.diagonal().add_(strength * square.diagonal().mean())
    weight = torch.linalg.solve(square, cross).T.float()
    return weight, aim - weight @ centre


def slow_to_fast(query: Tensor, key: Tensor, root: Tensor) -> tuple[Tensor, Tensor]:
    """New coordinates of a head's queries and keys, in which the fast rotary pairs turn what matters least.

    Products of queries and keys stay what they are: query_map.T @ key_map is the identity.

    Args:
        query: (d, D) float32.
        key: (d, D) float32.
        root: (D, D) float64, a root of the inputs' second moments.

    Returns:
        query_map and key_map, (d, d) float32.
    """
    rows_q = torch.linalg.qr((query.double() @ root).T).R
    rows_k = torch.linalg.qr((key.double() @ root).T).R
    _, sizes, right = torch.linalg.svd(rows_q @ rows_k.T)
    for_keys = sizes.sqrt()[:, None] * (right @ torch.linalg.inv(rows_k.T))
    # Llama turns coordinate i together with i + d / 2, the slower the larger i is; sizes come largest first.
    even = torch.arange(len(sizes) // 2, device=sizes.device).flip(0) * 2
    order = torch.cat([even, even + 1])
    for_keys = for_keys[order]
    return torch.linalg.inv(for_keys).T.float(), for_keys.float()


def _empty_student(config: object, vocabulary: int, recipe: InheritRecipe) -> LlamaForCausalLM:
    heads = config.num_attention_heads  # type: ignore[attr-defined]
    width = config.hidden_size  # type: ignore[attr-defined]
    student = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocabulary,
            hidden_size=width,
            intermediate_size=recipe.intermediate,
            num_hidden_layers=config.num_hidden_layers,  # type: ignore[attr-defined]
            num_attention_heads=heads,
            num_key_value_heads=heads,
            head_dim=width // heads,
            attention_bias=True,
            mlp_bias=True,
            rope_parameters={"rope_type": "default", "rope_theta": recipe.rope_theta},
            max_position_embeddings=recipe.max_tokens,
            tie_word_embeddings=True,
            use_cache=False,
        )
    ).eval()
    for name, parameter in student.named_parameters():
        parameter.fill_(1.0 if "norm" in name else 0.0)
    return student


def _behind(linear: nn.Linear, read: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Weight and bias of `linear` behind an affine map."""
    weight, bias = read
    return linear.weight @ weight, linear.weight @ bias + linear.bias


def _fill(linear: nn.Linear, weight: Tensor, bias: Tensor, rows: Tensor | None = None) -> None:
    places = slice(None) if rows is None else rows
    linear.weight[places], cast(Tensor, linear.bias)[places] = weight, bias


def _covariance(inputs: Tensor) -> Tensor:
    return sum((x.T @ x).double() for x in inputs.split(_CHUNK)) / len(inputs)  # type: ignore[return-value]


def _gain(norm: nn.LayerNorm) -> Tensor:
    """(D,), the norm's weights; a channel that it silences keeps a little, for scales are divided by it."""
    return norm.weight.clamp(min=0.2 * norm.weight.median().item())


def _centred(rows: Tensor) -> Tensor:
    return rows - rows.mean(1, keepdim=True)


def _heads(states: Tensor, heads: int) -> Tensor:
    """(tokens, D) as (heads, tokens, d)."""
    return states.view(len(states), heads, -1).transpose(0, 1)


def _layers(teacher: BertModel) -> Iterator[BertLayer]:
    return cast(Iterator[BertLayer], iter(teacher.encoder.layer))


def _blocks(student: LlamaForCausalLM) -> Iterator[LlamaDecoderLayer]:
    return cast(Iterator[LlamaDecoderLayer], iter(student.model.layers))
