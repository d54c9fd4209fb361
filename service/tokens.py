"""How a model sees texts, and what its token ids mean; all of it blocks, so call it on a thread."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tokenizers import Encoding

from ..embedder import Encoder, InputError
from ..embedder.template import Template


@dataclass(frozen=True)
class SimpleToken:
    """One token: its characters, of prompt and text together, are [start, stop); None for a special one."""

    id: int
    text: str
    special: bool
    start: int | None
    stop: int | None


def tokenize(
    encoder: Encoder, texts: Sequence[str], kind: str | None, instruction: str | None = None, *, special: bool = True
) -> list[Encoding]:
    """Tokenise as for encoding, but without cutting.

    Args:
        encoder: whose tokenizer.
        texts: N texts.
        kind: whose prompt stands in front; None for none.
        instruction: fills the prompt's slot.
        special: whether the tokenizer's special tokens are added.

    Raises:
        InputError: an unknown kind, or an instruction that its prompt has no place for.
    """
    template = Template() if kind is None else encoder.spec.template(kind, instruction)
    return encoder.tokenizer.encode_batch([template.wrap(text) for text in texts], add_special_tokens=special)


def simple_tokens(encoder: Encoder, text: str, kind: str | None, *, special: bool = True) -> list[SimpleToken]:
    """One text's tokens as TEI shows them; arguments and errors as in `tokenize`."""
    template = Template() if kind is None else encoder.spec.template(kind)
    whole = template.wrap(text)
    [made] = tokenize(encoder, [text], kind, special=special)
    return [
        SimpleToken(token, name, True, None, None)
        if mark
        else SimpleToken(token, whole[start:stop], False, start, stop)
        for token, name, (start, stop), mark in zip(
            made.ids, made.tokens, made.offsets, made.special_tokens_mask, strict=True
        )
    ]


def decode(encoder: Encoder, ids: Sequence[int], *, skip_special: bool = True) -> str:
    """Turn token ids into text.

    Raises:
        InputError: an id that this model does not have.
    """
    size = encoder.text_tokenizer.vocabulary_size
    wrong = next((token for token in ids if not 0 <= token < size), None)
    if wrong is not None:
        raise InputError(
            f"token id {wrong} is not one of this model's {size:,}: send text "
            "(LangChain does with check_embedding_ctx_length=False)"
        )
    return encoder.tokenizer.decode(list(ids), skip_special_tokens=skip_special)
