"""How big a model a budget of training affords, and whether to train it whole (arXiv 2406.04165).

What that paper is quoted for here: over Pythia models of 14 M to 2.8 B parameters trained contrastively, full
fine-tuning is best at low budgets, LoRA at high ones, with the crossover at about 9e16 FLOP, and training biases alone
or freezing blocks is never best. Figures were taken from summaries of the paper, not checked against its text; each
`Statement` says what it stands on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .settings import RecipeError

CROSSOVER_FLOP = 9.06e16
"""Budget from which LoRA is said to beat full fine-tuning. Not verified."""
FULL_FACTOR = 6.0
"""FLOP a parameter and token in full training: 2 forward, 4 backward. Common knowledge for decoders."""
LORA_FACTOR = 4.0
"""The same with frozen weights, whose own gradients are not computed: 2 forward, 2 backward."""
LORA_RANK = 128
"""Rank the paper is said to use. Not verified."""
SIZES = (14e6, 31e6, 70e6, 160e6, 410e6, 1.0e9, 1.4e9, 2.8e9, 7e9)
"""Parameters without embeddings, roughly, of the decoders there are to choose from; the paper's end at 2.8 B."""
TOKENS_PER_PARAMETER = 2.0
"""Fewest tokens of pairs a parameter should see. This project's guess: the paper gives curves, not a ratio."""


@dataclass(frozen=True)
class Advice:
    """What to train.

    Attributes:
        method: whole or with adapters.
        parameters: of the largest decoder whose training on `tokens` fits the budget.
        tokens: training tokens the budget buys at that size, the data repeated if need be.
        epochs: how often the data is seen.
        steps: lines that show the arithmetic.
        unverified: what in it was not checked.
    """

    method: Literal["full", "lora"]
    parameters: float
    tokens: float
    epochs: float
    steps: tuple[str, ...]
    unverified: tuple[str, ...]


def advise(flop: float, data_tokens: float) -> Advice:
    """Advises for a budget in FLOP and a number of training tokens (queries and passages together).

    Raises:
        RecipeError: budget or data is not positive.
    """
    if flop <= 0 or data_tokens <= 0:
        raise RecipeError("flops and data must be positive numbers")
    method: Literal["full", "lora"] = "lora" if flop >= CROSSOVER_FLOP else "full"
    factor = LORA_FACTOR if method == "lora" else FULL_FACTOR
    affordable = [n for n in SIZES if flop / (factor * n) >= TOKENS_PER_PARAMETER * n]
    parameters = affordable[-1] if affordable else SIZES[0]
    tokens = flop / (factor * parameters)
    sign = ">=" if method == "lora" else "<"
    steps = (
        f"method: {flop:.3g} FLOP {sign} crossover {CROSSOVER_FLOP:.3g} FLOP -> {method}",
        f"FLOP = {factor:g} x parameters x tokens ({method})",
        f"size: largest N with {flop:.3g} / ({factor:g} N) >= {TOKENS_PER_PARAMETER:g} N -> N = {parameters:.3g}",
        f"tokens: {flop:.3g} / ({factor:g} x {parameters:.3g}) = {tokens:.3g}",
        f"epochs: {tokens:.3g} / {data_tokens:.3g} = {tokens / data_tokens:.3g}",
    )
    return Advice(method, parameters, tokens, tokens / data_tokens, steps, _unverified(method, tokens / data_tokens))


def _unverified(method: str, epochs: float) -> tuple[str, ...]:
    notes = [
        f"the crossover of {CROSSOVER_FLOP:.3g} FLOP is quoted from summaries of arXiv 2406.04165, not from its text",
        f"{TOKENS_PER_PARAMETER:g} tokens a parameter is this project's guess: the paper gives curves, not a ratio",
        "its models are Pythia of 14 M to 2.8 B parameters; anything else is an extrapolation",
    ]
    if method == "lora":
        notes.append(
            f"rank {LORA_RANK} is said to be the paper's; {LORA_FACTOR:g} N D for LoRA leaves the adapters out"
        )
    if epochs > 4:
        notes.append(f"{epochs:.3g} epochs repeat the data often: a smaller budget will do")
    return tuple(notes)
