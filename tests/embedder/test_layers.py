"""States of every layer: the last one is the encoder's own, whatever engine and packing."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from decant.embedder import Encoder, InputError
from decant.embedder.layers import layer_states

TEXTS = ["rivers carry water to the sea", "short", "the committee met on Tuesday and discussed the budget", "a b"]


def test_last_layer_is_what_the_encoder_pools(tiny_model):
    encoder = Encoder.load(tiny_model, dtype="float32", verify=False)
    vectors = np.empty((len(TEXTS), encoder.dimension), np.float32)
    for batch in layer_states(encoder, TEXTS, batch_tokens=16):
        assert len(batch.states) == encoder.backbone.config.num_hidden_layers + 1
        assert all(states.shape == batch.states[-1].shape for states in batch.states)
        vectors[batch.texts] = encoder.head(batch.states[-1], batch.layout, batch.keep).numpy()
    np.testing.assert_allclose(vectors, encoder.encode(TEXTS).dense, atol=1e-5)


def test_first_layer_is_the_table(tiny_model):
    encoder = Encoder.load(tiny_model, dtype="float32", verify=False)
    (batch,) = layer_states(encoder, ["a text"])
    ids = torch.from_numpy(encoder.tokenize(["a text"]).ids[0]).long()
    torch.testing.assert_close(batch.states[0], encoder.backbone.model.get_input_embeddings()(ids))


def test_equal_length_engine_gives_the_same(tiny_model):
    encoder = Encoder.load(tiny_model, dtype="float32", verify=False)
    packed = {int(i): batch for batch in layer_states(encoder, TEXTS, batch_tokens=1) for i in batch.texts}
    with encoder.backbone.transformers_attention():
        apart = {int(i): batch for batch in layer_states(encoder, TEXTS, batch_tokens=1) for i in batch.texts}
    for i in range(len(TEXTS)):
        for one, other in zip(packed[i].states, apart[i].states, strict=True):
            torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def test_nothing_to_read_is_refused(tiny_model):
    with pytest.raises(InputError, match="no text"):
        list(layer_states(Encoder.load(tiny_model, dtype="float32", verify=False), []))
