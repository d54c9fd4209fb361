"""The in-context generator on a tiny decoder: prefix cache, drafting, what does not fit."""

from __future__ import annotations

import pytest

from decant.rag import GeneratorError
from decant.rag.generators.decoder import DecoderGenerator


def test_a_prefix_is_read_once_and_changes_nothing(decoder_folder, task):
    fresh, warm = (DecoderGenerator.load(decoder_folder, dtype="float32") for _ in range(2))
    list(warm.generate(task("What rusts?", "Iron rusts.")))
    again = task("What turns green?", "Iron rusts.")
    alone = task("What turns green?", "Iron rusts.")
    assert "".join(warm.generate(again)) == "".join(fresh.generate(alone)) != ""
    assert again.meter.usage.cached_tokens > 100
    assert alone.meter.usage.cached_tokens == 0
    assert again.meter.usage.prompt_tokens == alone.meter.usage.prompt_tokens


def test_a_prefix_never_crosses_tenants(decoder_folder, task):
    generator = DecoderGenerator.load(decoder_folder, dtype="float32")
    list(generator.generate(task("What rusts?", "Iron rusts.", tenant="one")))
    other = task("What rusts?", "Iron rusts.", tenant="two")
    list(generator.generate(other))
    assert other.meter.usage.cached_tokens == 0


def test_a_stream_that_is_left_leaves_the_generator_usable(decoder_folder, task):
    generator = DecoderGenerator.load(decoder_folder, dtype="float32")
    stream = generator.generate(task("What rusts?", "Iron rusts."))
    next(stream)
    stream.close()
    assert list(generator.generate(task("What rusts?", "Iron rusts.")))


def test_a_draft_changes_nothing(decoder_folder, task):
    plain = DecoderGenerator.load(decoder_folder, dtype="float32")
    drafted = DecoderGenerator.load(decoder_folder, dtype="float32", draft=decoder_folder)
    texts = ["".join(g.generate(task("What rusts?", "Iron rusts."))) for g in (plain, drafted)]
    assert texts[0] == texts[1]


def test_sources_that_do_not_fit_are_left_out_and_a_question_that_does_not_is_refused(decoder_folder, task):
    generator = DecoderGenerator.load(decoder_folder, dtype="float32")
    both = task("What rusts?", "Iron rusts.", "Copper. " * 400)
    list(generator.generate(both))
    assert both.meter.usage.prompt_tokens < 1000
    with pytest.raises(GeneratorError, match="longer context"):
        list(generator.generate(task("Why? " * 2000, "Iron rusts.")))


def test_a_folder_without_a_decoder_is_refused(tmp_path):
    with pytest.raises(GeneratorError, match="holds no decoder"):
        DecoderGenerator.load(tmp_path)
