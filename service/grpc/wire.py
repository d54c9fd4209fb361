"""decant.v1's messages to our nouns and back."""

from __future__ import annotations

from collections.abc import Mapping

import grpc
from tokenizers import Encoding

from ...embedder import InputError
from ...embedder.tokenization import Truncate
from ...index import Document, Hit
from ...index.modes import HYBRID
from ...rag import Answer, Message
from ..asking import Question
from ..client_wire import value_of
from ..engine import DENSE, ROUTER, SPARSE, EmbedOptions, Encoded
from ..failures import failure_of, message_of, retry_after
from ..models import Embedded, ServedModel
from ..proto.decant.v1 import decant_pb2 as pb
from ..queue import Priority
from ..reranking import Scores
from ..search import Found, Query
from ..vectors import VectorFormat, pack

_FORMATS: Mapping[int, VectorFormat] = {
    pb.VECTOR_FORMAT_UNSPECIFIED: VectorFormat.FLOAT32,
    pb.VECTOR_FORMAT_FLOAT32: VectorFormat.FLOAT32,
    pb.VECTOR_FORMAT_FLOAT16: VectorFormat.FLOAT16,
    pb.VECTOR_FORMAT_INT8: VectorFormat.INT8,
    pb.VECTOR_FORMAT_UBINARY: VectorFormat.UBINARY,
}
_TRUNCATE: Mapping[int, Truncate] = {
    pb.TRUNCATE_UNSPECIFIED: "end",
    pb.TRUNCATE_END: "end",
    pb.TRUNCATE_ERROR: "error",
}
_PRIORITIES: Mapping[int, Priority | None] = {
    pb.PRIORITY_UNSPECIFIED: None,
    pb.PRIORITY_QUERY: Priority.QUERY,
    pb.PRIORITY_BULK: Priority.BULK,
}
_MODES: Mapping[int, str] = {
    pb.SEARCH_MODE_UNSPECIFIED: HYBRID,
    pb.SEARCH_MODE_HYBRID: HYBRID,
    pb.SEARCH_MODE_DENSE: "dense",
    pb.SEARCH_MODE_LEXICAL: "lexical",
    pb.SEARCH_MODE_SPARSE: "sparse",
    pb.SEARCH_MODE_ROUTER: "router",
    pb.SEARCH_MODE_MOEE: "moee",
}
_OUTPUTS: Mapping[int, str] = {
    pb.OUTPUT_UNSPECIFIED: DENSE,
    pb.OUTPUT_DENSE: DENSE,
    pb.OUTPUT_SPARSE: SPARSE,
    pb.OUTPUT_ROUTER: ROUTER,
}
_ROLES = ("user", "assistant")


def options_of(request: pb.EmbedRequest, *, default: str = DENSE) -> EmbedOptions:
    """How a request wants its texts encoded, by `default` where it names no outputs.

    Raises:
        InputError: for values this version does not know.
    """
    if unknown := [int(output) for output in request.outputs if output not in _OUTPUTS]:
        raise InputError(f"unknown output {unknown[0]}: this server is older than the client")
    outputs = {_OUTPUTS[output] for output in request.outputs} or {default}
    return EmbedOptions(
        outputs=tuple(sorted(outputs)),
        kind=request.kind or "document",
        instruction=request.instruction if request.HasField("instruction") else None,
        dimensions=request.dimensions if request.HasField("dimensions") else None,
        truncate=truncate_of(request),
    )


def truncate_of(request: pb.EmbedRequest | pb.RerankRequest) -> Truncate:
    """What happens to its texts that are too long; raises InputError."""
    if request.truncate not in _TRUNCATE:
        raise InputError(f"unknown truncate {int(request.truncate)}: this server is older than the client")
    return _TRUNCATE[request.truncate]


def format_of(request: pb.EmbedRequest) -> VectorFormat:
    """How its vectors are to be packed; raises InputError."""
    if request.format not in _FORMATS:
        raise InputError(f"unknown vector format {int(request.format)}: this server is older than the client")
    return _FORMATS[request.format]


def priority_of(request: pb.EmbedRequest) -> Priority | None:
    """Its priority, None where it names none; raises InputError."""
    if request.priority not in _PRIORITIES:
        raise InputError(f"unknown priority {int(request.priority)}: this server is older than the client")
    return _PRIORITIES[request.priority]


def embed_response(model: ServedModel, made: Embedded, form: VectorFormat, seconds: float) -> pb.EmbedResponse:
    """The answer to a batch."""
    number = {value: key for key, value in _FORMATS.items()}[form]
    return pb.EmbedResponse(
        model=model.name,
        embeddings=[_embedding(item, form) for item in made.items],
        dimensions=made.dimensions,
        format=pb.VectorFormat.Name(number),
        fingerprint=model.encoder.fingerprint,
        timing=timing(made, seconds),
    )


def error_message(error: Exception, code: grpc.StatusCode | None = None) -> pb.Error:
    """An error of one text, or of one request of a stream."""
    number: int = (code or failure_of(error).grpc).value[0]
    seconds = retry_after(error)
    return pb.Error(code=number, message=message_of(error), retry_after_ms=round((seconds or 0) * 1000))


def timing(stages: Embedded | Found | Scores, seconds: float) -> pb.Timing:
    """Where a call's time went."""
    parts = (stages.tokenize_seconds, stages.queue_seconds, stages.encode_seconds, seconds)
    tokenize, queue, encode, total = (round(part * 1e9) for part in parts)
    return pb.Timing(tokenize_ns=tokenize, queue_ns=queue, encode_ns=encode, total_ns=total)


def tokens_message(encoding: Encoding) -> pb.Tokens:
    """One text as its tokens."""
    starts, ends = zip(*encoding.offsets, strict=True) if encoding.offsets else ((), ())
    return pb.Tokens(ids=encoding.ids, starts=starts, ends=ends)


def query_of(request: pb.SearchRequest) -> Query:
    """A question; raises InputError."""
    if unknown := [int(mode) for mode in request.modes if mode not in _MODES]:
        raise InputError(f"unknown search mode {unknown[0]}: this server is older than the client")
    mode = "+".join(_MODES[mode] for mode in request.modes) or HYBRID
    weight = request.router_weight if request.HasField("router_weight") else 1.0
    return Query(request.query, mode, request.k or 10, request.filter or None, request.exact, weight)


def rerank_response(name: str, scores: Scores, request: pb.RerankRequest, seconds: float) -> pb.RerankResponse:
    """The texts of a request by their scores."""
    values = scores.raw if request.raw_scores else scores.unit
    ranks = [
        pb.Rank(index=i, score=float(values[i]), truncated=scores.truncated[i])
        for i in scores.order(request.top_n or None)
    ]
    return pb.RerankResponse(model=name, ranks=ranks, tokens=scores.tokens, timing=timing(scores, seconds))


def question_of(request: pb.AskRequest) -> Question:
    """What is asked; raises InputError."""
    if strange := [turn.role for turn in request.history if turn.role not in _ROLES]:
        raise InputError(f"unknown role {strange[0][:40]!r} in the history: choose user or assistant")
    turns = tuple(Message("user" if turn.role == "user" else "assistant", turn.text) for turn in request.history)
    return Question(request.question, turns, request.k or None, request.filter or None)


def answer_message(answer: Answer) -> pb.Answer:
    """The whole answer with its citations."""
    return pb.Answer(
        text=answer.text,
        grounded=answer.grounded,
        confidence=answer.confidence,
        citations=[
            pb.Citation(
                number=c.number,
                doc_id=c.doc_id,
                path=c.path,
                title=c.title,
                start_char=c.start_char,
                end_char=c.end_char,
                text=c.text,
                score=c.score,
            )
            for c in answer.citations
        ],
    )


def document_of(message: pb.Document) -> Document:
    """A document to be stored; raises InputError."""
    if not message.doc_id:
        raise InputError("a document has no doc_id: give each one its own")
    metadata = {name: getattr(value, value.WhichOneof("kind") or "text") for name, value in message.metadata.items()}
    return Document(message.doc_id, message.text, message.title, message.path, message.media or "text", metadata)


def document_message(document: Document) -> pb.Document:
    """A stored document."""
    return pb.Document(
        doc_id=document.doc_id,
        text=document.text,
        title=document.title,
        path=document.path,
        media=document.media,
        metadata={name: value_of(value) for name, value in document.metadata.items()},
    )


def hit_message(hit: Hit, *, with_text: bool) -> pb.Hit:
    """One result."""
    return pb.Hit(
        doc_id=hit.chunk.doc_id,
        ordinal=hit.chunk.ordinal,
        score=hit.score,
        start_char=hit.chunk.start_char,
        end_char=hit.chunk.end_char,
        text=hit.chunk.text if with_text else "",
        title=hit.title,
        path=hit.path,
        metadata={name: value_of(value) for name, value in hit.metadata.items()},
        ranks=hit.ranks,
    )


def model_message(model: ServedModel) -> pb.Model:
    """What is known of a model."""
    return pb.Model(
        name=model.name,
        fingerprint=model.encoder.fingerprint,
        dimensions=model.encoder.dimension,
        offered_dimensions=model.offered_dimensions,
        max_tokens=model.encoder.max_tokens,
        kinds=sorted(model.encoder.spec.prompts),
        dtype=model.dtype,
        device=model.device,
    )


def _embedding(item: Encoded | Exception, form: VectorFormat) -> pb.Embedding:
    if not isinstance(item, Encoded):
        return pb.Embedding(error=error_message(item))
    try:
        dense, scale = pack(item.vector, form) if len(item.vector) else (b"", 0.0)
    except InputError as error:
        return pb.Embedding(error=error_message(error), tokens=item.tokens, truncated=item.truncated)
    scale = scale if form is VectorFormat.INT8 else 0.0
    made = pb.Embedding(dense=dense, tokens=item.tokens, truncated=item.truncated, scale=scale)
    if item.sparse is not None:
        made.sparse.terms.extend(item.sparse.terms.tolist())
        made.sparse.weights.extend(item.sparse.weights.tolist())
    if item.router is not None:
        made.router = item.router.astype("<f4", copy=False).tobytes()
    return made
