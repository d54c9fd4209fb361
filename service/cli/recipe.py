"""`decant recipe`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from .options import Json
from .output import print_json, results

NAME = "recipe"
SHORT_HELP = "Advise model size, and full training or LoRA, for a budget."


def command(
    flops: Annotated[float, typer.Option("--flops", metavar="N", help="Training budget in FLOP, such as 1e17.")],
    data: Annotated[float, typer.Option("--data", metavar="M", help="Training tokens there are, both sides.")],
    as_json: Json = False,
) -> None:
    """Advise model size, and full training or LoRA, for a budget, after arXiv 2406.04165.

    Shows the arithmetic, and says which of its numbers were not verified.
    """
    from ...embedder.training.advice import advise

    advice = advise(flops, data)
    if as_json:
        print_json(asdict(advice))
        return
    console = results()
    how = "LoRA" if advice.method == "lora" else "full fine-tuning"
    console.print(
        f"{how} of a decoder of about {advice.parameters / 1e6:,.0f} M parameters, {advice.tokens / 1e6:,.0f} M tokens "
        f"({advice.epochs:.3g} epochs)\n",
        soft_wrap=True,
    )
    for line in advice.steps:
        console.print(f"  {line}", markup=False, soft_wrap=True)
    console.print("\nNot verified:")
    for line in advice.unverified:
        console.print(f"  - {line}", markup=False, soft_wrap=True)
