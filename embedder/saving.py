"""Saving an encoder: one folder that Decant loads, and plain sentence-transformers where it can express the vectors."""

from __future__ import annotations

import copy
import json
import logging
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from tokenizers import processors
from torch import nn
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, PreTrainedModel, PreTrainedTokenizerFast

from . import calibration
from .errors import ModelError
from .examples import write_examples
from .families import NOT_PLAIN
from .formats import sentence_transformers, sparse_encoder
from .formats.folder import CALIBRATION_FOLDER, EXAMPLES_FILE, LATENT_FOLDER, LM_HEAD_FOLDER
from .masked_head import HeadTransform
from .model_config import model_type
from .spec import Attention, EncoderSpec, Pooling, PromptSpan
from .term_transform import TermTransform
from .tokenization import TextTokenizer

if TYPE_CHECKING:
    from .encoder import Encoder

log = logging.getLogger(__name__)

PROBES = ("words and words", "the sea", "a text", "A sentence of several words.", "été 😀", "1 and 2")


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
        whole_model(encoder).save_pretrained(draft)
        # A bidirectional model must not be generated from, so it says nothing about how.
        (draft / "generation_config.json").unlink(missing_ok=True)
        plain_tokenizer(encoder.text_tokenizer).save_pretrained(draft)
        _save_modules(encoder, draft)
        encoder.spec.save(draft)
        os.replace(draft, folder)
    except OSError as error:
        raise ModelError(f"cannot save to {folder}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def plain_tokenizer(tokenizer: TextTokenizer) -> PreTrainedTokenizerFast:
    """Return the tokenizer with the special tokens that the spec adds or leaves out in its own template.

    Others who load the folder know nothing of the spec and would go by the template alone.
    """
    source = tokenizer.source
    ids = source.backend_tokenizer.encode("a").ids
    inner = source.backend_tokenizer.encode("a", add_special_tokens=False).ids
    if ids == tokenizer.opening + inner + tokenizer.closing:
        return source
    plain = copy.deepcopy(source)
    backend = plain.backend_tokenizer
    description = json.loads(backend.to_str())
    present = description["post_processor"] or {}
    # What only corrects offsets stays; one template takes the place of another, for two in a row misplace the text.
    kept = [p for p in present.get("processors", [present]) if p.get("type") == "ByteLevel"]
    names = {i: str(backend.id_to_token(i)) for i in (*tokenizer.opening, *tokenizer.closing)}
    single = [*(names[i] for i in tokenizer.opening), "$A", *(names[i] for i in tokenizer.closing)]
    template = processors.TemplateProcessing(single=single, special_tokens=[(name, i) for i, name in names.items()])
    kept_processors = [processors.ByteLevel(**{k: v for k, v in p.items() if k != "type"}) for p in kept]
    backend.post_processor = processors.Sequence([*kept_processors, template]) if kept else template
    return plain


def _counting_differs(tokenizer: TextTokenizer, spec: EncoderSpec) -> str | None:
    """Say so where a prompt's end by offsets is not where its tokens alone, counted, would put it."""
    if spec.include_prompt or spec.prompt_span is not PromptSpan.OFFSETS or spec.pooling is Pooling.LAST:
        return None
    counting = TextTokenizer(tokenizer.source, replace(spec, prompt_span=PromptSpan.TOKENS))
    for kind in spec.prompts:
        template = spec.template(kind)
        if not np.array_equal(tokenizer(PROBES, template).pool_from, counting(PROBES, template).pool_from):
            return f"it counts the tokens of the {kind} prompt and would leave out the text's first word as well"
    return None


def _read_otherwise(encoder: Encoder) -> str | None:
    """Say so where transformers' default attention does not make of the model what the spec says."""
    family = model_type(encoder.backbone.config)
    if encoder.spec.attention is Attention.BIDIRECTIONAL and family in NOT_PLAIN:
        return f"{family} is not bidirectional there: {NOT_PLAIN[family]}"
    return None


def whole_model(encoder: Encoder) -> PreTrainedModel:
    """Return the backbone, under the language-model head that a sparse head needs; no weight is copied.

    Raises:
        ModelError: if transformers' class for both has a weight that neither gives.
    """
    backbone, sparse = encoder.backbone.model, encoder.sparse_head
    if sparse is None:
        return backbone
    head = sparse.lm_head
    with torch.device("meta"):
        kind = AutoModelForMaskedLM if isinstance(head.transform, HeadTransform) else AutoModelForCausalLM
        model: PreTrainedModel = kind.from_config(copy.deepcopy(backbone.config))
    setattr(model, model.base_model_prefix, backbone)
    if isinstance(head.transform, HeadTransform):
        model.load_state_dict(head.transform.model.state_dict(), strict=False, assign=True)
    last: Any = model.get_output_embeddings()
    last.weight = nn.Parameter(head.weight, requires_grad=False)
    if head.bias is not None and not head.tied:
        last.bias = nn.Parameter(head.bias, requires_grad=False)
    if empty := [name for name, tensor in model.named_parameters() if tensor.is_meta]:
        raise ModelError(f"{encoder.path} gives no {empty[0]}, which its language model would be saved with")
    return model.eval()


def _save_modules(encoder: Encoder, folder: Path) -> None:
    """Write what stands behind the backbone, and sentence-transformers' description where it can have one."""
    spec, dense = encoder.spec, list[Path]()
    sparse_alone = spec.sparse is not None and encoder.outputs == ("sparse",)
    lm_head = encoder.sparse_head.lm_head if encoder.sparse_head else None
    own = lm_head is not None and isinstance(lm_head.transform, TermTransform)
    if sparse_alone:
        reason = "its sparse head has a transform" if own else sparse_encoder.inexpressible(spec)
    else:
        reason = sentence_transformers.inexpressible(spec) or _counting_differs(encoder.text_tokenizer, spec)
    reason = reason or _read_otherwise(encoder)
    if reason:
        log.warning("%s loads in sentence-transformers through Decant only: %s", encoder.path, reason)
        sentence_transformers.write_foreign(folder, spec)
        dense = [folder / sentence_transformers.dense_folder(i) / "model.safetensors" for i in range(len(spec.dense))]
    elif sparse_alone and lm_head:
        sparse_encoder.write(folder, spec, masked=lm_head.transform is not None)
    else:
        dense = sentence_transformers.write(folder, spec, encoder.backbone.hidden_size)
    if lm_head and own:
        lm_head.save(folder / LM_HEAD_FOLDER)
    encoder.head.save_dense(dense)
    if encoder.head.latent:
        encoder.head.latent.save(folder / LATENT_FOLDER)
    calibration.save(encoder.calibrations, folder / CALIBRATION_FOLDER)
    if encoder.example_index:
        write_examples(encoder.example_index.pairs, folder / EXAMPLES_FILE)
