"""The server people write first: sentence-transformers behind FastAPI, one route, requests handled by threads.

MODEL=FOLDER uvicorn benchmarks.peers.st_fastapi:app --port 9000
"""

from __future__ import annotations

import os
from threading import Lock

import torch
from fastapi import FastAPI
from pydantic import BaseModel
from sentence_transformers import SentenceTransformer

app = FastAPI()
# Published weights may be stored in half precision, which CPUs compute slowly.
model = SentenceTransformer(os.environ["MODEL"], device="cpu", model_kwargs={"dtype": torch.float32})
# Its tokenizer is not safe to share between threads.
lock = Lock()


class Texts(BaseModel):
    """OpenAI's request, the part that is used."""

    input: list[str]


@app.post("/v1/embeddings")
def embeddings(body: Texts) -> dict[str, object]:
    """Encode a batch."""
    with lock:
        vectors = model.encode(body.input, batch_size=32, show_progress_bar=False)
    return {"data": [{"index": i, "embedding": vector.tolist()} for i, vector in enumerate(vectors)]}
