"""From the few words of a command line or a configuration to who answers."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ...embedder.encoder import Encoder
from ...index.store import Store
from ..answering import Answerer, AnswerRules
from ..context_cache import ContextCache
from ..errors import GeneratorError
from ..generation import Generator, Judge

if TYPE_CHECKING:
    from ..reader.reading import Reading

AUTO, EVIDENCE, READER, XC = "auto", "evidence", "reader", "xc"
_ADDRESS = ("http://", "https://")
KEY_VARIABLE = "DECANT_GENERATOR_KEY"


@dataclass(frozen=True)
class GeneratorChoice:
    """Who is to write.

    Attributes:
        name: `auto` (the reader that ships where it was trained for the store's model, else quotations), `evidence`,
            `reader`, `xc` (the writer that ships), an endpoint's address, a decoder's folder, or that of blocks for
            one, see `rag.xc` and `rag.writer`.
        model: what an endpoint calls its model.
        draft: folder of a smaller decoder that drafts for a local one.
        device: for a local decoder.
        reuse: share of a passage's keys that a local decoder keeps and joins instead of reading the passage again;
            None reads it.
    """

    name: str = AUTO
    model: str | None = None
    draft: str | None = None
    device: str | None = None
    reuse: float | None = None


def reads_states(choice: GeneratorChoice) -> bool:
    """Whether who writes is a store's own, for it reads the states that the store's model made; or is none."""
    from ..writer.adapter import holds_writer

    return choice.name in (AUTO, EVIDENCE, READER, XC) or holds_writer(Path(choice.name))


def build_answerer(
    store: Store, encoder: Encoder, choice: GeneratorChoice | None = None, rules: AnswerRules | None = None
) -> Answerer:
    """Make an `Answerer` with everything that ships for the store's model; quotations where no generator is chosen.

    Raises:
        GeneratorError: see `build_generator`.
        StoreMismatch: the encoder is not the store's.
    """
    reading = shipped_reading(store, encoder)
    generator = build_generator(choice or GeneratorChoice(EVIDENCE), store, encoder, reading)
    return Answerer(store, encoder, rules, generator=generator, judge=build_judge(reading))


def shipped_reading(store: Store, encoder: Encoder) -> Reading | None:
    """The reader that ships over a store's passages; None where it was not trained on the store's model."""
    from ..reader.adapter import TrainedReader
    from ..reader.reading import Reading

    trained = TrainedReader.shipped(encoder)
    return None if trained is None else Reading(encoder, trained, ContextCache.of(store, encoder))


def build_judge(reading: Reading | None) -> Judge | None:
    """Who tells which sentences to quote: the reader, where there is one."""
    from ..reader.judging import ReaderJudge

    return None if reading is None else ReaderJudge(reading)


def build_generator(
    choice: GeneratorChoice, store: Store, encoder: Encoder, reading: Reading | None = None
) -> Generator | None:
    """Make the generator; None for quotations. The endpoint's key comes from the environment alone.

    `reading` is `shipped_reading` of the store where it is there already.

    Raises:
        GeneratorError: it cannot be loaded, or something that it needs is missing.
    """
    name = choice.name
    local = name not in (AUTO, EVIDENCE, READER, XC) and not name.startswith(_ADDRESS)
    if choice.reuse is not None and (choice.draft or not local):
        raise GeneratorError("keys and values are reused by a local decoder that writes by itself: name its folder")
    if name == EVIDENCE:
        return None
    if name in (AUTO, READER):
        from ..reader.generator import ReaderGenerator
        from ..reader.reading import Reading

        reading = reading or shipped_reading(store, encoder)
        if name == AUTO and reading is None:
            return None
        return ReaderGenerator(reading or Reading.load(encoder, ContextCache.of(store, encoder)))
    if name.startswith(_ADDRESS):
        from .endpoint import EndpointGenerator, EndpointSettings

        if not choice.model:
            raise GeneratorError("an endpoint needs the name of its model: give it with --generator-model")
        return EndpointGenerator(EndpointSettings(name, choice.model, os.environ.get(KEY_VARIABLE, "")))
    from ..writer.adapter import holds_writer
    from ..xc.generator import XcGenerator, holds_blocks

    if name == XC or holds_blocks(Path(name)):
        if choice.draft or choice.reuse is not None:
            raise GeneratorError(
                "nothing can draft for cross-attention blocks, which reuse states: leave --draft and --kv-reuse out"
            )
        if name == XC or holds_writer(Path(name)):
            from ..writer.generator import CopyGenerator

            cache = reading.cache if reading is not None else ContextCache.of(store, encoder)
            return CopyGenerator.load(encoder, cache, None if name == XC else Path(name))
        return XcGenerator.load(Path(name), device=choice.device)
    if choice.reuse is not None:
        from .reusing import ReuseGenerator

        return ReuseGenerator.load(name, device=choice.device, keep=choice.reuse)
    from .decoder import DecoderGenerator

    return DecoderGenerator.load(name, device=choice.device, draft=choice.draft)
