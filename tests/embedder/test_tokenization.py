"""One tokenisation per text: cuts are seen, prompts end where they end, odd input is named."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from transformers import PreTrainedTokenizerFast

from decant.embedder import EncoderSpec, InputError, ModelError
from decant.embedder.tokenization import TextTokenizer

KINDS = ("byte", "byte-eos", "metaspace", "wordpiece")
CLOSING = {"byte": [], "byte-eos": [2], "metaspace": [], "wordpiece": [2]}
OPENING = {"byte": [], "byte-eos": [], "metaspace": [1], "wordpiece": [1]}
TEXT = "Rivers carry water from the mountains to the sea."
ODD = [
    "emoji 😀👩‍👩‍👧 end",
    "e\u0301 combining n\u0303",
    "עברית ਪੰਜਾਬੀ",
    "\x00\x01 control",
    "tab\tand\nline",
    "\ufeffmark",
    " ",
]

Make = Callable[..., TextTokenizer]


@pytest.fixture(scope="session")
def text_tokenizer(tokenizer_of: Callable[[str], PreTrainedTokenizerFast]) -> Make:
    return lambda kind="byte", **spec: TextTokenizer(tokenizer_of(kind), EncoderSpec(**{"max_tokens": 64, **spec}))


@pytest.mark.parametrize("kind", KINDS)
def test_ids_are_the_tokenizers_own(kind: str, text_tokenizer: Make, tokenizer_of: Any) -> None:
    texts = [TEXT, "a", *(t for t in ODD if t.strip())]
    result = text_tokenizer(kind)(texts)
    assert [ids.tolist() for ids in result.ids] == tokenizer_of(kind)(texts)["input_ids"]
    assert not result.truncated.any() and not result.pool_from.any()
    assert all(ids.dtype == np.int32 for ids in result.ids)


class TestTruncation:
    @pytest.mark.parametrize("kind", KINDS)
    def test_keeps_beginning_and_closing_special_tokens(self, kind: str, text_tokenizer: Make) -> None:
        whole = text_tokenizer(kind)([TEXT]).ids[0].tolist()
        limit = len(whole) - 3
        result = text_tokenizer(kind, max_tokens=limit)([TEXT, "a"])
        closing = CLOSING[kind]
        assert result.truncated.tolist() == [True, False]
        assert result.ids[0].tolist() == whole[: limit - len(closing)] + closing

    @pytest.mark.parametrize("kind", KINDS)
    def test_text_of_exactly_the_limit_is_whole(self, kind: str, text_tokenizer: Make) -> None:
        whole = text_tokenizer(kind)([TEXT]).ids[0]
        result = text_tokenizer(kind, max_tokens=len(whole))([TEXT], truncate="error")
        assert not result.truncated.any() and np.array_equal(result.ids[0], whole)

    def test_can_be_refused_with_the_number_of_the_text(self, text_tokenizer: Make) -> None:
        with pytest.raises(InputError, match=r"text 11 has \d+ tokens, the model takes 8"):
            text_tokenizer(max_tokens=8)(["a", TEXT], truncate="error", first=10)

    def test_appended_eos_survives_and_counts(self, text_tokenizer: Make) -> None:
        result = text_tokenizer("byte", append_eos=True, max_tokens=8)([TEXT, "a"])
        assert [len(ids) for ids in result.ids] == [8, 2]
        assert [ids[-1] for ids in result.ids] == [2, 2]

    def test_unknown_way_is_refused(self, text_tokenizer: Make) -> None:
        with pytest.raises(InputError, match="unknown truncate 'start': choose end or error"):
            text_tokenizer()(["a"], truncate="start")


class TestSpecialTokens:
    def test_eos_is_not_doubled(self, text_tokenizer: Make) -> None:
        assert text_tokenizer("byte-eos", append_eos=True)(["a"]).ids[0].tolist().count(2) == 1

    def test_left_out_where_the_spec_says_so(self, text_tokenizer: Make) -> None:
        ids = text_tokenizer("wordpiece", add_special_tokens=False)([TEXT]).ids[0].tolist()
        assert not {1, 2} & set(ids)

    def test_eos_without_template(self, text_tokenizer: Make) -> None:
        ids = text_tokenizer("wordpiece", add_special_tokens=False, append_eos=True)([TEXT]).ids[0].tolist()
        assert ids[-1] == 2 and 1 not in ids

    def test_missing_eos_is_refused(self, tokenizer_of: Any) -> None:
        without = PreTrainedTokenizerFast(tokenizer_object=tokenizer_of("byte").backend_tokenizer, pad_token="<pad>")
        with pytest.raises(ModelError, match="has no EOS"):
            TextTokenizer(without, EncoderSpec(append_eos=True))

    @pytest.mark.parametrize(("kind", "count"), [("byte", 0), ("byte-eos", 1), ("metaspace", 1), ("wordpiece", 2)])
    def test_no_room_for_text_is_refused(self, kind: str, count: int, text_tokenizer: Make) -> None:
        assert text_tokenizer(kind, max_tokens=count + 1).special_tokens == count
        if count:
            with pytest.raises(ModelError, match="leaves no room"):
                text_tokenizer(kind, max_tokens=count)

    def test_lowercase(self, text_tokenizer: Make) -> None:
        lower, plain = (text_tokenizer("byte", lowercase=flag) for flag in (True, False))
        assert np.array_equal(lower(["The SEA"]).ids[0], plain(["the sea"]).ids[0])
        assert not np.array_equal(plain(["The SEA"]).ids[0], plain(["the sea"]).ids[0])


class TestUnpooledPrompt:
    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("prompt", ["query: ", "query:", "Instruct: find it\nQuery: ", "¿qué? 😀 "])
    @pytest.mark.parametrize("text", [TEXT, "sea", "😀 smile", "e\u0301t\u0301", "(x)"])
    def test_ends_where_the_text_begins(self, kind: str, prompt: str, text: str, text_tokenizer: Make) -> None:
        """The pooled tokens spell the text whole, and nothing of the prompt's words."""
        tokenizer = text_tokenizer(kind, include_prompt=False)
        result = tokenizer([text], prompt)
        start = int(result.pool_from[0])
        encoding = tokenizer.backend.encode(prompt + text)
        words_end = len(prompt.rstrip())
        spans = [
            span for span, special in zip(encoding.offsets, encoding.special_tokens_mask, strict=True) if not special
        ]
        opening = len(OPENING[kind])
        pooled, before = spans[start - opening :], spans[: start - opening]
        assert all(begin >= words_end for begin, _ in pooled), "nothing of the prompt is pooled"
        assert pooled
        lost = {i for begin, end in before if begin >= words_end and end > len(prompt) for i in range(begin, end)}
        assert not lost, "and nothing of the text is left out"

    @pytest.mark.parametrize("kind", KINDS)
    def test_pooled_prompt_begins_at_the_first_token(self, kind: str, text_tokenizer: Make) -> None:
        result = text_tokenizer(kind, include_prompt=True)([TEXT], "query: ")
        assert result.pool_from.tolist() == [0]

    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("span", ["offsets", "tokens"])
    def test_without_prompt_all_is_pooled(self, kind: str, span: str, text_tokenizer: Make) -> None:
        result = text_tokenizer(kind, include_prompt=False, prompt_span=span)([TEXT])
        assert result.pool_from.tolist() == [0]

    @pytest.mark.parametrize("span", ["offsets", "tokens"])
    def test_prompt_that_fills_the_limit_is_refused(self, span: str, text_tokenizer: Make) -> None:
        tokenizer = text_tokenizer("byte", include_prompt=False, prompt_span=span, max_tokens=4)
        with pytest.raises(InputError, match=r"text 0 .*prompt fills all 4 tokens"):
            tokenizer(["sea"], "Represent this sentence: ")

    def test_pooled_prompt_that_fills_the_limit_is_refused_too(self, text_tokenizer: Make) -> None:
        """Nothing of any text would be left: all would get the prompt's vector."""
        for limit, fits in ((8, False), (9, True)):
            tokenizer = text_tokenizer("byte", max_tokens=limit)
            if fits:
                assert tokenizer(["sea"], "12345678").truncated.tolist() == [True]
            else:
                with pytest.raises(InputError, match=f"text 0 .*prompt fills all {limit} tokens"):
                    tokenizer(["sea"], "12345678")

    @pytest.mark.parametrize("span", ["offsets", "tokens"])
    @pytest.mark.parametrize("kind", KINDS)
    def test_empty_text_behind_it_is_refused(self, kind: str, span: str, text_tokenizer: Make) -> None:
        tokenizer = text_tokenizer(kind, include_prompt=False, prompt_span=span)
        with pytest.raises(InputError, match="text 1 is empty"):
            tokenizer(["sea", ""], "query: ")

    def test_single_joined_word_is_pooled_under_both_rules(self, text_tokenizer: Make) -> None:
        """`tokens` counts the prompt's last space; where that would leave a one-word text nothing, offsets decide."""
        for span in ("offsets", "tokens"):
            tokenizer = text_tokenizer("byte", include_prompt=False, prompt_span=span)
            result = tokenizer(["sea"], "query: ")
            assert 0 < result.pool_from[0] < len(result.ids[0])


class TestOddInput:
    @pytest.mark.parametrize(("value", "name"), [(None, "NoneType"), (3, "int"), (b"x", "bytes"), (["x"], "list")])
    def test_other_than_text_is_named(self, value: Any, name: str, text_tokenizer: Make) -> None:
        with pytest.raises(InputError, match=f"text 5 is {name}, not a string"):
            text_tokenizer()(["a", value], first=4)

    @pytest.mark.parametrize("prompt", ["", "query: "])
    def test_lone_surrogate_is_named(self, prompt: str, text_tokenizer: Make) -> None:
        with pytest.raises(InputError, match="text 1 holds a lone surrogate"):
            text_tokenizer()(["a", "b\ud800c"], prompt)

    def test_empty_text(self, text_tokenizer: Make) -> None:
        with pytest.raises(InputError, match="text 1 is empty"):
            text_tokenizer("byte")(["a", ""])
        assert text_tokenizer("wordpiece")([""]).ids[0].tolist() == [1, 2]

    def test_no_texts(self, text_tokenizer: Make) -> None:
        result = text_tokenizer()([])
        assert (result.ids, result.truncated.shape, result.pool_from.shape) == ([], (0,), (0,))

    def test_one_bad_text_among_many_changes_no_other(self, text_tokenizer: Make) -> None:
        tokenizer = text_tokenizer()
        alone = [tokenizer([text]).ids[0].tolist() for text in ODD]
        assert [ids.tolist() for ids in tokenizer(ODD).ids] == alone


def test_state_of_the_source_tokenizer_does_not_matter(tokenizer_of: Any) -> None:
    """A folder may ship truncation and padding switched on; both are the spec's business."""
    source = PreTrainedTokenizerFast(tokenizer_object=tokenizer_of("byte").backend_tokenizer, pad_token="<pad>")
    source.backend_tokenizer.enable_truncation(2)
    source.backend_tokenizer.enable_padding(length=99)
    tokenizer = TextTokenizer(source, EncoderSpec(max_tokens=64))
    assert len(tokenizer([TEXT, "a"]).ids[0]) > 2
    assert len(tokenizer([TEXT, "a"]).ids[1]) == 1


def test_no_usable_tokenizer(tmp_path: Any) -> None:
    with pytest.raises(ModelError, match="no usable tokenizer") as caught:
        TextTokenizer.load(tmp_path, EncoderSpec())
    assert "\n" not in str(caught.value)
