"""Chunking: exact offsets, nothing lost, nothing over the limit, the library's own cuts."""

from __future__ import annotations

import random

import numpy as np
import pytest
from semantic_text_splitter import MarkdownSplitter, TextSplitter
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from decant.embedder.embeddings import Embeddings
from decant.embedder.errors import InputError
from decant.index.chunking import Chunker, ChunkSettings
from decant.index.documents import Chunk, Document
from decant.index.testing import HashEncoder
from decant.index.token_count import TokenCounter

PROSE = "\n\n".join(
    f"Paragraph {i} says something. It says it in {i % 7 + 2} sentences" + ", more or less" * (i % 5) + "."
    for i in range(60)
)
MARKDOWN = "\n\n".join(f"{'#' * (i % 3 + 1)} Heading {i}\n\nText of section {i}. " * 3 for i in range(30))
PYTHON = "\n\n".join(f"def function_{i}(a, b):\n    c = a + b * {i}\n    return c ** {i}" for i in range(40))
HARD = {
    "astral and combining": "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 e\u0301te\u0301 👩‍👩‍👧‍👦 " * 80,
    "carriage returns": "line one\r\nline two\r\n\r\n" * 60,
    "one long word": "x" * 5000,
    "spaces only around": "   \n\n  word  \n\n   ",
    "no spaces": "日本語のテキスト。" * 200,
    "form feeds": "page one\n\f\npage two\n\f\n" * 50,
}


def byte_level_tokenizer() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=400, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator([PROSE, MARKDOWN, PYTHON], trainer)
    return tokenizer


class ByteEncoder:
    """Counts the tokens of a byte-level tokenizer and adds a prompt of `prompt` tokens; its vectors are zeros."""

    def __init__(self, max_tokens: int = 64, prompt: int = 3) -> None:
        self.tokenizer, self.max_tokens, self._prompt = byte_level_tokenizer(), max_tokens, prompt
        self.fingerprint, self.dimension = "bytes", 2
        self.outputs = self.indexed_outputs = ("dense",)

    def tokens(self, text: str) -> int:
        return self._prompt + len(self.tokenizer.encode(text, add_special_tokens=False).ids)

    def encode(self, texts: list[str], *, kind: str = "document", outputs: tuple[str, ...] = ("dense",)) -> Embeddings:
        counts = np.array([self.tokens(text) for text in texts], np.int32)
        return Embeddings(
            np.minimum(counts, self.max_tokens), counts > self.max_tokens, np.zeros((len(texts), 2), "f4")
        )


def check_whole(document: Document, chunks: list[Chunk]) -> None:
    """Offsets are exact, order is kept, and only white space is left out."""
    position = 0
    for ordinal, chunk in enumerate(chunks):
        assert (chunk.doc_id, chunk.ordinal) == (document.doc_id, ordinal)
        assert document.text[chunk.start_char : chunk.end_char] == chunk.text
        assert chunk.text.strip()
        assert not document.text[position : chunk.start_char].strip()
        position = chunk.end_char
    assert not document.text[position:].strip()


@pytest.mark.parametrize(
    ("media", "text"),
    [("text", PROSE), ("markdown", MARKDOWN), ("code:python", PYTHON), ("code:sql", PYTHON), ("rst", PROSE)]
    + [("text", text) for text in HARD.values()]
    + [("markdown", text) for text in HARD.values()],
)
def test_chunks_are_the_text_and_fit(media: str, text: str) -> None:
    encoder = ByteEncoder()
    document = Document("d", text, "A title", media=media)
    chunker = Chunker(encoder, ChunkSettings(tokens=40))
    chunks = chunker.chunk(document)
    check_whole(document, chunks)
    assert chunks == chunker.chunk(document)
    assert max(encoder.tokens(chunker.encoder_text(document.title, c)) for c in chunks) <= encoder.max_tokens


def test_random_text_with_random_limits() -> None:
    random.seed(7)
    alphabet = "ab \n\t\r#*`é漢😀\u0301-"
    for _ in range(60):
        encoder = ByteEncoder(max_tokens=random.randint(24, 90), prompt=random.randint(0, 4))
        text = "".join(random.choices(alphabet, k=random.randint(1, 900)))
        document = Document(
            "d", text, "t" * random.randint(0, 40), media=random.choice(["text", "markdown", "code:python"])
        )
        chunker = Chunker(encoder, ChunkSettings(tokens=random.randint(4, 100)))
        chunks = chunker.chunk(document)
        check_whole(document, chunks)
        assert all(encoder.tokens(chunker.encoder_text(document.title, c)) <= encoder.max_tokens for c in chunks)


@pytest.mark.parametrize("splitter", [TextSplitter, MarkdownSplitter])
def test_counting_once_cuts_where_the_tokenizer_itself_does(splitter: type[TextSplitter | MarkdownSplitter]) -> None:
    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    for text in (PROSE, MARKDOWN):
        ours = splitter.from_callback(TokenCounter(tokenizer, text), 40).chunk_indices(text)
        assert ours == splitter.from_huggingface_tokenizer(tokenizer, 40).chunk_indices(text)


def test_counts_do_not_depend_on_where_blocks_are_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = byte_level_tokenizer()
    whole = TokenCounter(tokenizer, MARKDOWN).between(0, len(MARKDOWN))
    monkeypatch.setattr("decant.index.token_count._BLOCK_CHARS", 100)
    assert abs(TokenCounter(tokenizer, MARKDOWN).between(0, len(MARKDOWN)) - whole) <= len(MARKDOWN) // 100


def test_what_a_tokenizer_takes_for_one_word_is_cut_all_the_same() -> None:
    document = Document("d", "x" * 100_000)
    check_whole(document, chunks := Chunker(HashEncoder(max_tokens=512)).chunk(document))
    assert max(len(chunk.text) for chunk in chunks) < 5000


def test_overlap_repeats_text() -> None:
    chunker = Chunker(ByteEncoder(256), ChunkSettings(tokens=60, overlap=20))
    chunks = chunker.chunk(Document("d", PROSE))
    assert all(PROSE[c.start_char : c.end_char] == c.text for c in chunks)
    assert any(later.start_char < earlier.end_char for earlier, later in zip(chunks, chunks[1:], strict=False))


def test_a_lone_heading_joins_its_text() -> None:
    text = "# Alone\n\n" + "word " * 36
    assert [
        c.text for c in Chunker(HashEncoder(), ChunkSettings(tokens=40)).chunk(Document("d", text, media="markdown"))
    ] == [text.strip()]


def test_a_page_is_cut_as_the_markdown_that_it_is() -> None:
    text = "".join(f"# Part {i}\n\n" + "Words of it. " * 4 + "\n\n" for i in range(6))
    cut = {
        media: [
            c.text for c in Chunker(HashEncoder(), ChunkSettings(tokens=40)).chunk(Document("d", text, media=media))
        ]
        for media in ("markdown", "html", "text")
    }
    assert cut["html"] == cut["markdown"] != cut["text"]


def test_python_is_cut_between_functions() -> None:
    chunks = Chunker(HashEncoder(max_tokens=512), ChunkSettings(tokens=64)).chunk(
        Document("d", PYTHON, media="code:python")
    )
    assert all(chunk.text.startswith("def ") for chunk in chunks)


def test_the_title_goes_to_the_encoder_once() -> None:
    chunker = Chunker(HashEncoder(max_tokens=64), ChunkSettings(tokens=16))
    first, *others = chunker.chunk(
        Document("d", "# Apples\n\n" + "Red and green ones. " * 20, "Apples", media="markdown")
    )
    assert chunker.encoder_text("Apples", first) == first.text
    assert others
    assert all(chunker.encoder_text("Apples", chunk) == f"Apples\n{chunk.text}" for chunk in others)


def test_white_space_has_no_chunks() -> None:
    assert Chunker(HashEncoder()).chunk(Document("d", " \n\t ")) == []


@pytest.mark.parametrize(("tokens", "overlap"), [(0, 0), (-5, 0), (10, 10), (10, -1)])
def test_impossible_settings_are_refused(tokens: int, overlap: int) -> None:
    with pytest.raises(InputError, match="token"):
        ChunkSettings(tokens, overlap)


def test_an_encoder_with_no_room_is_refused() -> None:
    with pytest.raises(InputError, match="leaves none"):
        Chunker(ByteEncoder(max_tokens=3, prompt=3))
