"""A store as an MCP server: `search` for passages, `get` for a whole document; reading only."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version
from typing import Annotated, Any

from pydantic import BaseModel, Field

from ..embedder import DecantError
from ..index import Hit, Searcher, Store
from ..index.encoder import Encoder
from .errors import ServiceError
from .failures import message_of

MAX_RESULTS = 50
_INSTRUCTIONS = (
    "Search finds passages of the indexed documents by meaning and by words. Cite a passage by its doc_id and its "
    "range; get returns the whole document, of which text[start_char:end_char] is the passage."
)


class Passage(BaseModel):
    """One passage, and where it is from."""

    doc_id: str
    path: str
    title: str
    start_char: int
    end_char: int
    text: str
    score: float


class Found(BaseModel):
    """Passages, best first."""

    passages: list[Passage]


class Whole(BaseModel):
    """A document."""

    doc_id: str
    path: str
    title: str
    text: str


def make_mcp(store: Store, encoder: Encoder) -> Any:
    """Return an `mcp.server.MCPServer` over a store.

    Raises:
        ServiceError: the package is not installed.
    """
    try:
        from mcp.server import MCPServer
        from mcp.server.mcpserver.exceptions import ToolError
    except ImportError:
        raise ServiceError("decant mcp needs the package mcp: pip install 'decant[mcp]'") from None
    searcher = Searcher(store, encoder)
    server = MCPServer("decant", version=version("decant"), instructions=_INSTRUCTIONS)

    def told(work: Callable[[], Any]) -> Any:
        """Errors that are meant for the user become the tool's answer."""
        try:
            return work()
        except DecantError as error:
            raise ToolError(message_of(error)) from None

    @server.tool(title="Search the documents", structured_output=True)
    def search(
        query: Annotated[str, Field(description="What to look for, in plain words")],
        k: Annotated[int, Field(ge=1, le=MAX_RESULTS, description="How many passages")] = 8,
        filter: Annotated[
            str | None, Field(description="SQL conditions on doc_id, path, title, media, metadata.<name>")
        ] = None,
    ) -> Found:
        """Find the passages that answer a question, by meaning and by words together."""
        hits: list[Hit] = told(lambda: searcher.search(query, k=k, filter=filter))
        return Found(passages=[_passage(hit) for hit in hits])

    @server.tool(title="Read a document", structured_output=True)
    def get(doc_id: Annotated[str, Field(description="As a passage of `search` names it")]) -> Whole:
        """Return a whole document, as it was indexed."""
        try:
            found = told(lambda: store.document(doc_id))
        except KeyError:
            raise ToolError(f"there is no document {doc_id[:200]!r}: use a doc_id that search returned") from None
        return Whole(doc_id=found.doc_id, path=found.path, title=found.title, text=found.text)

    del search, get
    return server


def _passage(hit: Hit) -> Passage:
    return Passage(
        doc_id=hit.chunk.doc_id,
        path=hit.path,
        title=hit.title,
        start_char=hit.chunk.start_char,
        end_char=hit.chunk.end_char,
        text=hit.chunk.text,
        score=float(hit.score),
    )
