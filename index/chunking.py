"""Documents to chunks: passages of whole sentences, sections or functions that the encoder can take in full."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Protocol

from semantic_text_splitter import CodeSplitter, MarkdownSplitter, TextSplitter

from ..embedder.errors import InputError
from .documents import MARKDOWN_MEDIA, Chunk, Document
from .encoder import Encoder
from .token_count import TokenCounter

VERSION = 1
"""Raise it when the same text and settings are chunked differently: indexed documents are then chunked again."""
DEFAULT_CHUNK_TOKENS = 256
MAX_TITLE_TOKENS = 32
# A chunk's count in place and by itself differ by a token or two at its edges; nearer to the limit it is recounted.
_EDGE_TOKENS = 8
# A lone heading or quote mark is no passage: chunks of fewer tokens (or an eighth of the most) join the next one.
_SHORT_TOKENS = 24

# Grammars by media; module and function. Other languages are split at blank lines and line ends.
_GRAMMARS = {
    "code:bash": ("tree_sitter_bash", "language"),
    "code:c": ("tree_sitter_c", "language"),
    "code:cpp": ("tree_sitter_cpp", "language"),
    "code:go": ("tree_sitter_go", "language"),
    "code:java": ("tree_sitter_java", "language"),
    "code:javascript": ("tree_sitter_javascript", "language"),
    "code:python": ("tree_sitter_python", "language"),
    "code:rust": ("tree_sitter_rust", "language"),
    "code:tsx": ("tree_sitter_typescript", "language_tsx"),
    "code:typescript": ("tree_sitter_typescript", "language_typescript"),
}


class _Splitter(Protocol):
    def chunk_indices(self, text: str) -> list[tuple[int, str]]: ...


@dataclass(frozen=True)
class ChunkSettings:
    """What decides where a document is cut, besides its text and the tokenizer.

    Attributes:
        tokens: a chunk's most tokens, without title, prompt and special tokens.
        overlap: tokens of a chunk's end that the next one may repeat.
        late: whether chunks are pooled from their document, encoded whole.
    """

    tokens: int = DEFAULT_CHUNK_TOKENS
    overlap: int = 0
    late: bool = False

    def __post_init__(self) -> None:
        """Refuse sizes that make no chunks."""
        if self.tokens < 1:
            raise InputError(f"a chunk needs at least 1 token, not {self.tokens}")
        if not 0 <= self.overlap < self.tokens:
            raise InputError(f"the overlap must be from 0 to {self.tokens - 1} tokens, not {self.overlap}")


class Chunker:
    """Cuts documents for one encoder.

    Args:
        encoder: counts tokens and says how many it takes; encodes one word, to learn what its prompt costs.
        settings: see `ChunkSettings`; `tokens` is lowered where the encoder takes fewer.

    Raises:
        InputError: the encoder's limit leaves no room beside its prompt.
    """

    def __init__(self, encoder: Encoder, settings: ChunkSettings | None = None) -> None:
        self.settings = settings or ChunkSettings()
        self._tokenizer = encoder.tokenizer
        self._room = encoder.max_tokens - _prompt_tokens(encoder)

    def chunk(self, document: Document) -> list[Chunk]:
        """Return the chunks of `document` in order; a text of white space only has none.

        `document.text[c.start_char:c.end_char] == c.text` for each, and `encoder_text` of each fits the encoder.
        """
        if not document.text.strip():
            return []
        room = self._room - self._title_tokens(document.title)
        counter = TokenCounter(self._tokenizer, document.text)
        spans = self._split(document, counter, min(self.settings.tokens, room))
        if self.settings.tokens > room - _EDGE_TOKENS:
            spans = self._fit(document, counter, spans, room)
        return [
            Chunk(document.doc_id, ordinal, start, start + len(text), text)
            for ordinal, (start, text) in enumerate(spans)
        ]

    def encoder_text(self, title: str, chunk: Chunk) -> str:
        """Return what is encoded for a chunk: its text under the document's title, which few passages repeat.

        The title is left out where the chunk begins with it, where it is over 32 tokens (it would drown the
        passage), and where the encoder has little room.
        """
        if not self._title_tokens(title) or title in chunk.text[: 2 * len(title) + 16]:
            return chunk.text
        return f"{title}\n{chunk.text}"

    def _title_tokens(self, title: str) -> int:
        if not title:
            return 0
        tokens = len(self._tokenizer.encode(f"{title}\n", add_special_tokens=False).ids)
        return tokens if tokens <= min(MAX_TITLE_TOKENS, self._room // 4) else 0

    def _split(self, document: Document, counter: TokenCounter, capacity: int) -> list[tuple[int, str]]:
        short = min(_SHORT_TOKENS, capacity // 8)
        overlap = min(self.settings.overlap, capacity - short - 1)
        splitter = _splitter(document.media, counter, capacity - short, overlap)
        return _join_short(document.text, splitter.chunk_indices(document.text), counter, short, capacity)

    def _fit(
        self, document: Document, counter: TokenCounter, spans: list[tuple[int, str]], room: int
    ) -> list[tuple[int, str]]:
        """Halve the capacity until every chunk fits by itself; a single character that does not is left to be cut."""
        capacity = min(self.settings.tokens, room)
        while capacity > 1 and any(n > room for n in counter.alone([text for _, text in spans])):
            capacity = max(capacity - _EDGE_TOKENS, capacity // 2)
            spans = self._split(document, counter, capacity)
        return spans


def _join_short(
    text: str, spans: list[tuple[int, str]], counter: TokenCounter, short: int, capacity: int
) -> list[tuple[int, str]]:
    joined: list[tuple[int, str]] = []
    for start, piece in spans:
        end = start + len(piece)
        if joined:
            first, last = joined[-1]
            small = min(counter.between(first, first + len(last)), counter.between(start, end)) < short
            if small and counter.between(first, end) <= capacity:
                joined[-1] = (first, text[first:end])
                continue
        joined.append((start, piece))
    return joined


def _splitter(media: str, count: Callable[[str], int], capacity: int, overlap: int) -> _Splitter:
    if media in _GRAMMARS:
        return CodeSplitter.from_callback(_grammar(media), count, capacity, overlap)
    kind = MarkdownSplitter if media in MARKDOWN_MEDIA else TextSplitter
    return kind.from_callback(count, capacity, overlap)


@cache
def _grammar(media: str) -> int:
    module, function = _GRAMMARS[media]
    return getattr(import_module(module), function)()


def _prompt_tokens(encoder: Encoder) -> int:
    """Return the tokens the encoder adds to a document: prompt and special tokens."""
    word = "a"
    encoded = encoder.encode([word], kind="document")
    if encoded.truncated[0]:
        raise InputError(f"the encoder's limit of {encoder.max_tokens} tokens leaves none beside its prompt")
    alone = len(encoder.tokenizer.encode(word, add_special_tokens=False).ids)
    return max(int(encoded.tokens[0]) - alone, 0)
