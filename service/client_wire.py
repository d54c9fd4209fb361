"""What both clients of decant.v1 share: how to connect and to ask, and what comes back; no network."""

from __future__ import annotations

import json
import re
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from ..embedder import InputError
from ..embedder.tokenization import Truncate
from ..index.documents import Chunk, Document, Hit
from ..index.modes import HYBRID, NEEDS
from ..rag import Answer, Citation, Message
from .errors import ServiceError
from .proto.decant.v1 import decant_pb2 as pb
from .vectors import VectorFormat, unpack

_RETRY = {
    "maxAttempts": 5,
    "initialBackoff": "0.1s",
    "maxBackoff": "5s",
    "backoffMultiplier": 2,
    "retryableStatusCodes": ["UNAVAILABLE", "RESOURCE_EXHAUSTED"],
}
_SERVICES = [{"service": f"decant.v1.{name}"} for name in ("Encoder", "Reranker", "Searcher", "Models")]
_MESSAGE_BYTES = 256 * 2**20


class CallFailed(ServiceError):
    """The server refused a call, or could not be reached.

    Attributes:
        code: gRPC's status.
    """

    def __init__(self, message: str, code: grpc.StatusCode) -> None:
        super().__init__(message)
        self.code = code


_COUNTED = re.compile(r"^: text \d+(?= )")


class TextFailed(ServiceError):
    """One text could not be encoded.

    Attributes:
        index: its position in the list.
    """

    def __init__(self, index: int, message: str) -> None:
        # The server counts within one request, which is a part of the list.
        super().__init__(f"text {index}{_COUNTED.sub('', f': {message}')}")
        self.index = index


@dataclass(frozen=True)
class Encodings:
    """What the server made of N texts.

    Attributes:
        dense: (N, D) float32; NaN where `errors` has an entry; (N, 0) where it was not asked for.
        tokens: (N,) int32, tokens encoded.
        truncated: (N,) bool, whether the text was cut.
        errors: why a text has no vector, by its position.
        sparse: (N, V) float32 CSR where it was asked for; V is one more than the highest term.
        fingerprint: of the model; changes whenever the same text could get another vector.
    """

    dense: NDArray[np.float32]
    tokens: NDArray[np.int32]
    truncated: NDArray[np.bool_]
    errors: Mapping[int, str]
    model: str
    fingerprint: str
    sparse: csr_array | None = None


@dataclass(frozen=True)
class Ranked:
    """One text by how well it answers a question: its place in the list that was sent."""

    index: int
    score: float
    truncated: bool


@dataclass(frozen=True)
class Options:
    """How to encode; as the arguments of `decant.embedder.Encoder.encode`.

    Attributes:
        format: how vectors travel; they arrive as float32 in any case.
        outputs: `dense`, `sparse` or both.
        adapter: one of the model's, by name.
        keep_errors: return texts that failed in `Encodings.errors` where False raises `TextFailed`.
    """

    model: str = ""
    kind: str = "document"
    instruction: str | None = None
    dimensions: int | None = None
    format: str = VectorFormat.FLOAT32
    truncate: Truncate = "end"
    keep_errors: bool = False
    outputs: Sequence[str] = ("dense",)
    adapter: str = ""

    def __post_init__(self) -> None:
        """Refuse words the protocol has no number for; raises InputError."""
        _one_of("format", self.format, tuple(VectorFormat))
        _one_of("truncate", self.truncate, ("end", "error"))
        for output in self.outputs:
            _one_of("output", output, ("dense", "sparse"))

    def request(self, texts: Sequence[str]) -> pb.EmbedRequest:
        """The message for some texts."""
        return pb.EmbedRequest(
            model=self.model,
            texts=texts,
            kind=self.kind,
            instruction=self.instruction,
            dimensions=self.dimensions,
            format=f"VECTOR_FORMAT_{self.format.upper()}",
            truncate=f"TRUNCATE_{self.truncate.upper()}",
            outputs=[f"OUTPUT_{output.upper()}" for output in self.outputs],
            adapter=self.adapter,
        )


@dataclass(frozen=True)
class Connection:
    """What both clients are made with.

    Attributes:
        tls: speak TLS; `ca` names who signed the server's certificate where the system does not know, `cert` and
            `cert_key` are what the client shows of itself. All are PEM files.
    """

    address: str
    key: str | None = None
    timeout: float = 60.0
    batch_texts: int = 256
    in_flight: int = 4
    options: Sequence[tuple[str, Any]] = field(default_factory=tuple)
    tls: bool = False
    ca: str | Path | None = None
    cert: str | Path | None = None
    cert_key: str | Path | None = None

    @property
    def credentials(self) -> grpc.ChannelCredentials | None:
        """For TLS; None for plain text."""
        if not (self.tls or self.ca or self.cert):
            return None
        ca, key, cert = (
            None if file is None else Path(file).read_bytes() for file in (self.ca, self.cert_key, self.cert)
        )
        return grpc.ssl_channel_credentials(ca, key, cert)

    @property
    def channel_options(self) -> list[tuple[str, Any]]:
        """Sizes and when to try again."""
        config = {"methodConfig": [{"name": _SERVICES, "retryPolicy": _RETRY}]}
        sizes = [("grpc.max_receive_message_length", _MESSAGE_BYTES), ("grpc.max_send_message_length", _MESSAGE_BYTES)]
        return [*sizes, ("grpc.service_config", json.dumps(config)), *self.options]

    @property
    def metadata(self) -> list[tuple[str, str]]:
        """The key."""
        return [("authorization", f"Bearer {self.key}")] if self.key else []

    @property
    def call(self) -> dict[str, Any]:
        """What every call is made with."""
        return {"timeout": self.timeout, "metadata": self.metadata}

    def batches(self, texts: Sequence[str], options: Options) -> list[pb.EmbedRequest]:
        """A list of texts as requests."""
        step = self.batch_texts
        return [options.request(texts[start : start + step]) for start in range(0, max(len(texts), 1), step)]


def listed(texts: str | Sequence[str]) -> list[str]:
    """One text or several, as several; raises InputError for what is no text."""
    found = [texts] if isinstance(texts, str) else list(texts)
    for index, text in enumerate(found):
        if not isinstance(text, str):  # pyright: ignore[reportUnnecessaryIsInstance]: a list of a CSV column may hold None
            raise InputError(f"text {index} is {type(text).__name__}, not a string")
    return found


@contextmanager
def refusals() -> Generator[None]:
    """Raise gRPC's errors as the client's."""
    try:
        yield
    except grpc.RpcError as error:
        known: Any = error
        raise CallFailed(str(known.details()), known.code()) from None


def joined(answers: Iterable[pb.EmbedResponse], options: Options) -> Encodings:
    """The answers to one list of texts as one."""
    parts = list(answers)
    items = [item for part in parts for item in part.embeddings]
    width = parts[0].dimensions if "dense" in options.outputs else 0
    dense = np.full((len(items), width), np.nan, np.float32)
    errors: dict[int, str] = {}
    for index, item in enumerate(items):
        if item.HasField("error"):
            if not options.keep_errors:
                raise TextFailed(index, item.error.message)
            errors[index] = item.error.message
        elif "dense" in options.outputs:
            dense[index] = unpack(item.dense, VectorFormat(options.format), width, item.scale)
    fingerprints = {part.fingerprint for part in parts}
    if len(fingerprints) > 1:
        raise ServiceError("the server changed its model between two requests: encode these texts again")
    return Encodings(
        dense,
        np.array([item.tokens for item in items], np.int32),
        np.array([item.truncated for item in items], np.bool_),
        errors,
        parts[0].model,
        parts[0].fingerprint,
        _sparse([item.sparse for item in items]) if "sparse" in options.outputs else None,
    )


def search_request(
    query: str,
    *,
    mode: str = "hybrid",
    k: int = 10,
    filter: str | None = None,
    exact: bool = False,
    router_weight: float = 1.0,
    store: str = "",
) -> pb.SearchRequest:
    """A question as a message; `mode` and what follows as of `Searcher.search`; raises InputError."""
    names = mode.split("+")
    for name in names:
        _one_of("mode", name, (*NEEDS, HYBRID))
    modes = [f"SEARCH_MODE_{name.upper()}" for name in names]
    return pb.SearchRequest(
        query=query, modes=modes, k=k, filter=filter, exact=exact, router_weight=router_weight, store=store
    )


def rerank_request(
    query: str, texts: Sequence[str], *, model: str = "", top_n: int = 0, raw_scores: bool = False
) -> pb.RerankRequest:
    """Texts to be ranked as a message."""
    return pb.RerankRequest(query=query, texts=texts, model=model, top_n=top_n, raw_scores=raw_scores)


def ranks_of(response: pb.RerankResponse) -> list[Ranked]:
    """What was ranked, best first."""
    return [Ranked(rank.index, rank.score, rank.truncated) for rank in response.ranks]


def ask_request(
    question: str,
    *,
    history: Sequence[Message] = (),
    k: int = 0,
    filter: str | None = None,
    store: str = "",
) -> pb.AskRequest:
    """A question with what was said before, as a message."""
    turns = [pb.Turn(role=message.role, text=message.text) for message in history]
    return pb.AskRequest(question=question, history=turns, k=k, filter=filter, store=store)


def piece_of(question: str, response: pb.AskResponse) -> str | Answer:
    """A piece of an answer's text, or all of it."""
    if response.WhichOneof("part") != "answer":
        return response.text
    answer = response.answer
    citations = tuple(
        Citation(c.number, c.doc_id, c.path, c.title, c.start_char, c.end_char, c.text, c.score)
        for c in answer.citations
    )
    confidence = answer.confidence if answer.HasField("confidence") else None
    return Answer(question, answer.text, citations, grounded=answer.grounded, confidence=confidence)


def index_requests(documents: Iterable[Document], store: str, prefix: str = "") -> Iterator[pb.IndexRequest]:
    """Documents as a stream's messages, made as they are sent."""
    yield pb.IndexRequest(store=store, prefix=prefix)
    for document in documents:
        message = pb.Document(
            doc_id=document.doc_id,
            text=document.text,
            title=document.title,
            path=document.path,
            media=document.media,
            metadata={name: value_of(value) for name, value in document.metadata.items()},
        )
        yield pb.IndexRequest(document=message)


def tokenize_request(
    texts: Sequence[str],
    *,
    model: str = "",
    kind: str = "",
    instruction: str | None = None,
    without_special_tokens: bool = False,
) -> pb.TokenizeRequest:
    """Texts to be cut into tokens as a message."""
    return pb.TokenizeRequest(
        model=model,
        texts=texts,
        kind=kind,
        instruction=instruction,
        without_special_tokens=without_special_tokens,
    )


def document_of(message: pb.Document) -> Document:
    """A document as it was stored."""
    metadata = _metadata_of(message.metadata)
    return Document(message.doc_id, message.text, message.title, message.path, message.media, metadata)


def _metadata_of(values: Mapping[str, pb.Value]) -> dict[str, str | int | float | bool]:
    return {name: getattr(value, value.WhichOneof("kind") or "text") for name, value in values.items()}


def value_of(value: str | int | float | bool) -> pb.Value:
    """A field of a document's metadata."""
    match value:
        case bool():
            return pb.Value(truth=value)
        case int() if -(2**63) <= value < 2**63:
            return pb.Value(integer=value)
        case str():
            return pb.Value(text=value)
        case _:
            return pb.Value(number=value)


def _sparse(vectors: Sequence[pb.SparseVector]) -> csr_array:
    ends = np.cumsum([0, *(len(vector.terms) for vector in vectors)])
    terms = np.array([term for vector in vectors for term in vector.terms], np.int64)
    weights = np.array([weight for vector in vectors for weight in vector.weights], np.float32)
    return csr_array((weights, terms, ends), shape=(len(vectors), int(terms.max(initial=-1)) + 1))


def _one_of(name: str, value: str, choices: Sequence[str]) -> None:
    if value not in choices:
        raise InputError(f"unknown {name} {value!r}: choose from {', '.join(choices)}")


def hits_of(response: pb.SearchResponse) -> list[Hit]:
    """What was found, best first."""
    return [
        Hit(
            Chunk(hit.doc_id, hit.ordinal, hit.start_char, hit.end_char, hit.text),
            hit.score,
            hit.title,
            hit.path,
            _metadata_of(hit.metadata),
            dict(hit.ranks),
        )
        for hit in response.hits
    ]
