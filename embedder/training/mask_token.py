"""Which token stands for a hidden one."""

from __future__ import annotations

from typing import Literal

from transformers import PreTrainedTokenizerFast

from .settings import RecipeError

MaskToken = Literal["blank", "mask", "eos", "add"]
ADDED = "<mask>"


def mask_token_id(tokenizer: PreTrainedTokenizerFast, choice: MaskToken, field: str) -> int:
    """The id of the token that stands for a hidden one; `add` puts a new token into `tokenizer`.

    Args:
        tokenizer: of the model.
        choice: `blank` is the ordinary token "_" (LLM2Vec's choice), `mask` and `eos` the tokenizer's own.
        field: what an error names.

    Raises:
        RecipeError: the tokenizer has no such token.
    """
    if choice == "add":
        if tokenizer.mask_token_id is None:
            tokenizer.add_special_tokens({"mask_token": ADDED})
        return int(tokenizer.mask_token_id)  # pyright: ignore[reportArgumentType]
    known = {"mask": tokenizer.mask_token_id, "eos": tokenizer.eos_token_id, "blank": _blank(tokenizer)}
    found = known[choice]
    if not isinstance(found, int):
        usable = ", ".join([*(name for name, value in known.items() if isinstance(value, int)), "add"])
        raise RecipeError(f"{field}: the tokenizer has no {choice} token; choose one of {usable}")
    return found


def _blank(tokenizer: PreTrainedTokenizerFast) -> int | None:
    return tokenizer.get_vocab().get("_")
