"""`Encoder`: text in, vectors out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array
from tokenizers import Tokenizer

from . import calibration
from .backbone import Backbone
from .calibration import Calibration
from .embeddings import Embeddings
from .examples import ExampleIndex, check_examples, tokenize_each
from .fingerprint import fingerprint
from .formats.folder import DEFAULT_MODEL, ModelFiles, resolve
from .forwards import token_vectors
from .loading import load_parts
from .sparse import explain
from .spec import EncoderSpec
from .token_encoder import TokenEncoder
from .tokenization import TextTokenizer, TokenizedTexts, Truncate
from .windows import encoded_windows

Around = tuple[str, str | None, Sequence[tuple[str, str]], Truncate]
"""What `Encoder.tokenize` takes besides texts: kind, instruction, examples, truncation."""


class Encoder(TokenEncoder):
    """A decoder turned into a text encoder; safe to share between threads.

    Attributes:
        path: the folder it came from.
        example_index: examples saved with the model, from which a query gets its own; None where it has none.
    """

    def __init__(
        self,
        files: ModelFiles,
        path: Path,
        backbone: Backbone,
        tokenizer: TextTokenizer,
        calibrations: Mapping[str, Calibration],
        examples: Sequence[tuple[str, str]] = (),
    ) -> None:
        """Put heads and examples on a loaded backbone; use `Encoder.load`.

        Raises:
            ModelError: if a head's weights are missing or do not fit, or examples are missing.
        """
        super().__init__(files, backbone, tokenizer, calibrations)
        self.path = path
        self._files = files
        self.example_index: ExampleIndex | None = None
        if retrieved := self.spec.retrieved_examples:
            self.example_index = ExampleIndex(check_examples(examples), retrieved, self._without_examples)

    @classmethod
    def load(
        cls,
        path_or_name: str | Path | None = None,
        *,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype | None = None,
        spec: EncoderSpec | None = None,
        rule: str | None = None,
        adapters: Sequence[str | Path] = (),
        examples: str | Path | None = None,
        verify: bool = True,
    ) -> Self:
        """Load an encoder: a model folder, a hub name, or the model that ships with Decant.

        Args:
            path_or_name: Decant, sentence-transformers, PEFT adapter or plain decoder folder; None for decant-mini.
            device: torch device; None for the best one here.
            dtype: `float32`, `bfloat16`, `float16`, `int8`, or `checkpoint` for the format the weights are stored in;
                None for bfloat16 where the hardware multiplies it, else float32. `int8` rounds what linear layers
                multiply to 8 bits, on a CPU with VNNI; the rest is computed as with None.
            spec: replaces the folder's own description.
            rule: name of a published model's prompts, pooling and attention in `prompts.RULES`, put over the folder's
                description; for models published without one.
            adapters: PEFT folders merged on top, in this order; an LLM2Vec folder among them brings its description.
            examples: a .jsonl of `query` and `positive`, from which each query gets its examples; None for the folder's
                own, where its description retrieves any.
            verify: prove the cheap invariants on the loaded model (`verify.check_loaded`).

        Raises:
            ModelError: if the model cannot be loaded whole, or its description cannot be honoured.
            VerificationError: if the loaded model breaks an invariant.
        """
        from .verify import check_loaded

        path = DEFAULT_MODEL if path_or_name is None else resolve(path_or_name)
        parts = load_parts(path, device, dtype, spec, rule, adapters, examples)
        encoder = cls(parts.files, path, parts.backbone, parts.tokenizer, parts.calibrations, parts.examples)
        if verify:
            check_loaded(encoder)
        return encoder

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer, without padding or truncation; do not change it."""
        return self.text_tokenizer.backend

    @property
    def fingerprint(self) -> str:
        """Hash of spec and weights; reads every byte of the model once."""
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        measured = calibration.digest(self.calibrations) if self.calibrations else b""
        measured += self.example_index.digest() if self.example_index else b""
        return fingerprint(self._files.spec, *self._files.weights(), measured)

    def encode(
        self,
        texts: str | Sequence[str],
        *,
        kind: str = "document",
        instruction: str | None = None,
        examples: Sequence[tuple[str, str]] = (),
        outputs: Sequence[str] | None = None,
        dimensions: int | None = None,
        truncate: Truncate = "end",
        batch_tokens: int | None = None,
    ) -> Embeddings:
        """Encode texts; row i of the result belongs to text i.

        Args:
            texts: one text or several.
            kind: which of the spec's prompts goes in front, `query` or `document` as a rule.
            instruction: the task, for models whose prompt has a place for it.
            examples: (query, passage) pairs put before each text, for models whose prompt has a place for them; none
                for those that the model retrieves for each text, where it does.
            outputs: representations wanted, of those in `Encoder.outputs`; None for dense vectors, or for whatever
                there is where the model makes none.
            dimensions: width of the dense vectors, one the model was trained for; None for its default.
            truncate: `end` cuts a text that is too long and reports it, `error` refuses it.
            batch_tokens: token budget of one forward; results do not depend on it.

        Returns:
            Embeddings of N rows: dense (N, D) float32, sparse (N, V) float32 CSR, router (N, R) float32.

        Raises:
            InputError: for a text or an option that cannot be honoured, naming it.
        """
        texts = [texts] if isinstance(texts, str) else list(texts)
        around = (kind, instruction, examples, truncate)
        if not texts:
            outputs = self._checked(kind, instruction, examples, outputs, dimensions)
            return self.represent(self.tokenize([], *around), outputs, dimensions=dimensions)
        return Embeddings.concatenate(list(self._windows(texts, around, outputs, dimensions, batch_tokens)))

    def encode_stream(
        self,
        texts: Iterable[str],
        *,
        kind: str = "document",
        instruction: str | None = None,
        examples: Sequence[tuple[str, str]] = (),
        outputs: Sequence[str] | None = None,
        dimensions: int | None = None,
        truncate: Truncate = "end",
        batch_tokens: int | None = None,
    ) -> Iterator[Embeddings]:
        """Encode any number of texts in constant memory: parts in input order, arguments as in `encode`."""
        yield from self._windows(texts, (kind, instruction, examples, truncate), outputs, dimensions, batch_tokens)

    def encode_chunks(
        self,
        text: str,
        spans: Sequence[tuple[int, int]],
        *,
        kind: str = "document",
        dimensions: int | None = None,
        batch_tokens: int | None = None,
    ) -> NDArray[np.float32]:
        """Encode a document once and pool each of its chunks from it (late chunking, arXiv 2409.04701).

        A text longer than `max_tokens` is read in overlapping windows.

        Args:
            text: the whole document.
            spans: first and end character of each chunk, in the order of the text; they may overlap.
            kind: as in `encode`, like `dimensions` and `batch_tokens`.
            dimensions: width of the vectors.
            batch_tokens: token budget of one forward.

        Returns:
            (chunks, D) float32; special tokens and prompt are attended to and not pooled.

        Raises:
            InputError: for a causal encoder, one that does not average, or chunks that cannot be honoured.
        """
        from .late_chunking import encode_chunks

        return encode_chunks(self, text, spans, kind=kind, dimensions=dimensions, batch_tokens=batch_tokens)

    def token_vectors(
        self,
        texts: Sequence[str],
        *,
        kind: str = "document",
        truncate: Truncate = "end",
        batch_tokens: int | None = None,
    ) -> list[NDArray[np.float32]]:
        """Return the backbone's last hidden state of every token of each text, for late interaction.

        Args:
            texts: N texts.
            kind: as in `encode`, like `truncate` and `batch_tokens`.
            truncate: what happens to a text that is too long.
            batch_tokens: token budget of one forward.

        Returns:
            For each text (tokens, H) float32 rows of unit length; the prompt before it and special tokens are
            attended to and left out.

        Raises:
            InputError: as in `encode`.
        """
        return token_vectors(self, texts, kind, truncate, batch_tokens)

    def tokenize(
        self,
        texts: Sequence[str],
        kind: str = "document",
        instruction: str | None = None,
        examples: Sequence[tuple[str, str]] = (),
        truncate: Truncate = "end",
        *,
        first: int = 0,
    ) -> TokenizedTexts:
        """Turn texts into token ids with everything the spec puts around them, examples found for each included.

        Args:
            texts: N texts.
            kind: as in `encode`, like `instruction`, `examples` and `truncate`.
            instruction: the task.
            examples: pairs put before each text.
            truncate: what happens to a text that is too long.
            first: number of the first text, for error messages.

        Raises:
            InputError: as in `encode`.
        """
        if examples or self.example_index is None or not self.spec.retrieves(kind):
            template = self.spec.template(kind, instruction, examples)
            return self.text_tokenizer(texts, template, truncate, first=first)
        found = (self.example_index.for_query(text) for text in texts)
        return tokenize_each(self.text_tokenizer, self.spec, texts, found, (kind, instruction, truncate), first)

    def calibrated(self, texts: Iterable[str], *, kind: str = "document") -> Self:
        """Return this encoder with router vectors, and dense ones beside them, standardised by what `texts` give.

        The statistics become part of the model: saved with it, and in its fingerprint. Both share the weights.

        Args:
            texts: some hundred of the kind that will be encoded; at least two.
            kind: the prompt they get.

        Raises:
            InputError: for an encoder without router vectors, or fewer than two texts.
        """
        spec, measured = calibration.calibrate(self, texts, kind)
        return self.with_spec(spec, measured)

    def with_spec(self, spec: EncoderSpec, calibrations: Mapping[str, Calibration]) -> Self:
        """Return an encoder of the same weights under another description and its statistics."""
        files = replace(self._files, spec=spec)
        pairs = self.example_index.pairs if self.example_index else ()
        return type(self)(files, self.path, self.backbone, self.text_tokenizer, calibrations, pairs)

    def terms(self, sparse: csr_array, top: int | None = None) -> list[list[tuple[str, float]]]:
        """Return the terms of `Embeddings.sparse` as people read them, heaviest first, `top` per text at most."""
        return explain(sparse, self.tokenizer, top)

    def save(self, folder: str | Path) -> None:
        """Save as a folder that Decant loads to the same bytes and plain `SentenceTransformer` loads to agree.

        Raises:
            ModelError: if the folder exists and is not empty, or cannot be written.
        """
        from .saving import save_encoder

        save_encoder(self, Path(folder))

    def _without_examples(self, texts: list[str]) -> NDArray[np.float32]:
        kinds = [kind for kind in self.spec.prompts if self.spec.retrieves(kind)]
        return self.encode_tokens(self.text_tokenizer(texts, self.spec.template(kinds[0])))

    def _windows(
        self,
        texts: Iterable[str],
        around: Around,
        outputs: Sequence[str] | None,
        dimensions: int | None,
        batch_tokens: int | None,
    ) -> Iterator[Embeddings]:
        kind, instruction, examples, _ = around
        wanted = self._checked(kind, instruction, examples, outputs, dimensions)
        return encoded_windows(
            texts,
            lambda window, first: self.tokenize(window, *around, first=first),
            lambda tokenized: self.represent(tokenized, wanted, dimensions=dimensions, batch_tokens=batch_tokens),
        )

    def _checked(
        self,
        kind: str,
        instruction: str | None,
        examples: Sequence[tuple[str, str]],
        outputs: Sequence[str] | None,
        dimensions: int | None,
    ) -> Sequence[str]:
        """Return the representations wanted; refuse what cannot be honoured before any text is read."""
        if outputs is None:
            outputs = ("dense",) if "dense" in self.outputs else self.outputs
        self.refuse_missing(outputs)
        self.head.width(dimensions)
        self.spec.template(kind, instruction, examples)
        return outputs
