import numpy as np
import torch

from decant.embedder.training.packed_texts import PackedTexts
from decant.embedder.training.pairs import PairSet
from decant.embedder.training.states import hidden_states
from decant.embedder.training.term_head import start


@torch.no_grad()
def own_terms(head, model, ids):
    """Weights of a text's own terms and of all others, (own,) and (others,)."""
    texts = PackedTexts.of([np.asarray(ids)])
    allowed = torch.arange(5, len(head.terms))
    row = head(hidden_states(model, texts), texts, allowed)[0]
    own = torch.isin(allowed, texts.input_ids)
    return row[own], row[~own]


def test_the_start_gives_a_text_its_own_terms(finished_run, recipes):
    pairs, model = PairSet.load(finished_run.folder / "pairs"), finished_run._model("distil")
    head = start(model, pairs, torch.arange(5), recipes["terms"])
    own, others = own_terms(head, model, pairs.passages[0])
    assert own.mean() > 5 * others.mean()


def test_the_loss_falls(finished_run):
    log = (finished_run.folder / "terms" / "loss.csv").read_text().splitlines()[1:]
    losses = [float(line.split(",")[1]) for line in log]
    assert np.mean(losses[-3:]) < 0.9 * np.mean(losses[:3])
