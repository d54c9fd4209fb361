"""Saving an encoder: one folder that Decant and plain sentence-transformers both load."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import ModelError
from .formats import sentence_transformers

if TYPE_CHECKING:
    from .encoder import Encoder


def save_encoder(encoder: Encoder, folder: Path) -> None:
    """Write the folder beside its final place and move it there when it is whole.

    Raises:
        ModelError: if the folder exists and is not empty, or cannot be written.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ModelError(f"{folder} is not empty: choose a new folder")
    draft = folder.with_name(f".{folder.name}.{os.getpid()}")
    try:
        draft.mkdir(parents=True)
        encoder.backbone.model.save_pretrained(draft)
        encoder.text_tokenizer.source.save_pretrained(draft)
        dense = sentence_transformers.write(draft, encoder.spec, encoder.backbone.hidden_size)
        encoder.head.save_dense(dense)
        encoder.spec.save(draft)
        os.replace(draft, folder)
    except OSError as error:
        raise ModelError(f"cannot save to {folder}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
