"""Documents and vectors: a durable store, dense, lexical and hybrid search, ingestion and evaluation."""

from .documents import Chunk, Document, Hit
from .schema import DocumentState, IndexedDocument
from .searcher import Searcher
from .store import Store

__all__ = ["Chunk", "Document", "DocumentState", "Hit", "IndexedDocument", "Searcher", "Store"]
