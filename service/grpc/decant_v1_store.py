"""decant.v1's services over stores: search, answers, and documents in and out."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing

from ...embedder import InputError
from ...index import Document
from ..backend import Backend
from ..caller import Caller
from ..proto.decant.v1 import decant_pb2 as pb
from ..proto.decant.v1 import decant_pb2_grpc as stubs
from ..search import SearchService
from .door import Context, Door
from .wire import answer_message, document_message, document_of, hit_message, query_of, question_of, timing

# Documents of a stream that are stored together: what a failure can cost, and what is held in memory.
BATCH_DOCUMENTS = 64
BATCH_CHARACTERS = 1 << 20


class SearcherService(stubs.SearcherServicer):
    """decant.v1.Searcher."""

    def __init__(self, door: Door, backend: Backend) -> None:
        self._door = door
        self._stores = backend.stores

    async def Search(self, request: pb.SearchRequest, context: Context) -> pb.SearchResponse:
        """Find passages."""
        async with self._door.enter(context, "Searcher/Search", "search") as visit:
            store = await self._stores.get(request.store, visit.caller.tenant)
            visit.model = store.model.name
            found = await store.search(query_of(request), visit.caller)
            hits = [hit_message(hit, with_text=not request.without_text) for hit in found.hits]
            return pb.SearchResponse(hits=hits, timing=timing(found, visit.elapsed()))
        raise AssertionError("the door ends a call that failed")

    async def Get(self, request: pb.GetRequest, context: Context) -> pb.Document:
        """Return a whole document."""
        async with self._door.enter(context, "Searcher/Get", "search") as visit:
            store = await self._stores.get(request.store, visit.caller.tenant)
            return document_message(await store.document(request.doc_id, visit.caller))
        raise AssertionError("the door ends a call that failed")


class AnswererService(stubs.AnswererServicer):
    """decant.v1.Answerer."""

    def __init__(self, door: Door, backend: Backend) -> None:
        self._door = door
        self._backend = backend

    async def Ask(self, request: pb.AskRequest, context: Context) -> AsyncGenerator[pb.AskResponse]:
        """Answer a question in pieces, then as a whole with its citations."""
        async with self._door.enter(context, "Answerer/Ask", "ask") as visit:
            store = await self._backend.stores.get(request.store, visit.caller.tenant)
            visit.model = store.model.name
            pieces = self._backend.asking.stream(question_of(request), store, visit.caller)
            async with aclosing(pieces):
                async for piece in pieces:
                    if isinstance(piece, str):
                        yield pb.AskResponse(text=piece)
                    else:
                        yield pb.AskResponse(answer=answer_message(piece))


class IndexerService(stubs.IndexerServicer):
    """decant.v1.Indexer."""

    def __init__(self, door: Door, backend: Backend) -> None:
        self._door = door
        self._stores = backend.stores

    async def Index(self, request_iterator: AsyncIterator[pb.IndexRequest], context: Context) -> pb.IndexResponse:
        """Make a store hold what the stream holds."""
        return await self._take(request_iterator, context, "Indexer/Index", whole=True)

    async def Upsert(self, request_iterator: AsyncIterator[pb.IndexRequest], context: Context) -> pb.IndexResponse:
        """Add and replace documents."""
        return await self._take(request_iterator, context, "Indexer/Upsert", whole=False)

    async def Delete(self, request_iterator: AsyncIterator[pb.DeleteRequest], context: Context) -> pb.DeleteResponse:
        """Remove documents."""
        async with self._door.enter(context, "Indexer/Delete", "index") as visit:
            store: SearchService | None = None
            removed = 0
            async for request in request_iterator:
                store = store or await self._stores.get(request.store, visit.caller.tenant, write=True)
                removed += await store.delete(list(request.doc_ids))
            if store is None:
                raise InputError("nothing to delete: send at least one message")
            return pb.DeleteResponse(removed=removed)
        raise AssertionError("the door ends a call that failed")

    async def _take(
        self, requests: AsyncIterator[pb.IndexRequest], context: Context, method: str, *, whole: bool
    ) -> pb.IndexResponse:
        async with self._door.enter(context, method, "index") as visit:
            store: SearchService | None = None
            prefix = ""
            waiting = _Waiting()
            async for request in requests:
                if store is None:
                    store = await self._stores.get(request.store, visit.caller.tenant, write=True)
                    visit.model, prefix = store.model.name, request.prefix
                if request.HasField("document"):
                    document = document_of(request.document)
                    if whole and not document.doc_id.startswith(prefix):
                        raise InputError(f"document {document.doc_id[:99]!r} does not begin with {prefix[:99]!r}")
                    waiting.add(document)
                if waiting.full:
                    # A stream lives as long as its client wants; each batch has a time limit of its own.
                    await waiting.store(store, self._door.renewed(visit.caller))
            if store is None:
                raise InputError("nothing to index: send at least one message")
            caller = self._door.renewed(visit.caller)
            await waiting.store(store, caller)
            removed = await store.keep_only(waiting.seen, prefix) if whole else 0
            return pb.IndexResponse(stored=waiting.stored, unchanged=waiting.unchanged, removed=removed)
        raise AssertionError("the door ends a call that failed")


class _Waiting:
    """Documents of one stream: those that wait to be stored, and what came of the others."""

    def __init__(self) -> None:
        self.seen: set[str] = set()
        self.stored = self.unchanged = 0
        self._documents: list[Document] = []
        self._characters = 0

    @property
    def full(self) -> bool:
        return len(self._documents) >= BATCH_DOCUMENTS or self._characters >= BATCH_CHARACTERS

    def add(self, document: Document) -> None:
        if document.doc_id in self.seen:
            raise InputError(f"document {document.doc_id[:100]!r} was sent twice: give each its own id")
        self.seen.add(document.doc_id)
        self._documents.append(document)
        self._characters += len(document.text)

    async def store(self, store: SearchService, caller: Caller) -> None:
        documents, self._documents = self._documents, []
        self._characters = 0
        if documents:
            written = await store.write(documents, caller)
            self.stored += written.stored
            self.unchanged += written.unchanged
