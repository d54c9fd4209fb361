"""The steps in their order, each with a folder of its own in the run folder; finished ones are not done again."""

from __future__ import annotations

import dataclasses
import json
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import AutoTokenizer, LlamaForCausalLM, PreTrainedTokenizerBase

from ...kernels.attention import register
from .batches import PackedTexts, pack
from .contrastive import convert, temper, train_contrastive
from .decoder import build_decoder, mean_vectors
from .dev import Encode, dev_scores, dev_sets
from .export import export_encoder
from .lm import train_lm
from .pairs import PairSet, build_pairs
from .ragged import Ragged
from .recipe import (
    ContrastiveRecipe,
    ExportRecipe,
    LmRecipe,
    PairsRecipe,
    Recipe,
    RecipeError,
    TeacherRecipe,
    TokenizerRecipe,
    TokenTableRecipe,
)
from .sources import DataError
from .teacher import MiniLmTeacher, Teacher, TeacherVectors, embed_pairs
from .token_table import TableEncoder, TokenTable, initial_table, train_table
from .tokenizer import MASK, train_tokenizer, training_texts

log = logging.getLogger(__name__)

TeacherFactory = Callable[[int], Teacher]
_DEV_DISTRACTORS = 500


@dataclasses.dataclass(frozen=True)
class Run:
    """One run of a recipe folder: where the data is, where results go, who teaches.

    Attributes:
        data: folder with pairs/, text/ and beir/.
        folder: gets one folder a step.
        teacher: makes a teacher that reads at most so many tokens.
    """

    data: Path
    folder: Path
    teacher: TeacherFactory = MiniLmTeacher

    def do(self, recipe: Recipe) -> bool:
        """Does a step, or continues it where it was interrupted; False if it was finished before.

        Raises:
            RecipeError: the step was begun with other settings.
            DataError: the step needs the result of one that has not been run.
        """
        folder = self.folder / recipe.step
        if self._finished(folder, recipe):
            log.info("%s: finished before", recipe.step)
            return False
        began = time.perf_counter()
        self._perform(recipe, folder)
        (folder / "finished.json").write_text(json.dumps({"seconds_of_last_start": time.perf_counter() - began}))
        log.info("%s: finished in %.0f s", recipe.step, time.perf_counter() - began)
        return True

    def _finished(self, folder: Path, recipe: Recipe) -> bool:
        folder.mkdir(parents=True, exist_ok=True)
        settings = json.dumps(dataclasses.asdict(recipe), indent=2) + "\n"
        file = folder / "recipe.json"
        if file.exists() and file.read_text() != settings:
            raise RecipeError(f"{folder} was begun with other settings: remove it, or choose another --run folder")
        file.write_text(settings)
        return (folder / "finished.json").exists()

    def _perform(self, recipe: Recipe, folder: Path) -> None:
        match recipe:
            case TokenizerRecipe():
                texts = training_texts(self.data, recipe.sources, recipe.seed)
                train_tokenizer(texts, recipe).save_pretrained(folder)
            case PairsRecipe():
                build_pairs(self.data, self._tokenizer(), recipe, folder)
            case TeacherRecipe():
                embed_pairs(self._result("pairs"), recipe, folder, self.teacher(recipe.max_tokens))
            case TokenTableRecipe():
                self._token_table(recipe, folder)
            case LmRecipe():
                self._lm(recipe, folder)
            case ContrastiveRecipe():
                self._contrastive(recipe, folder)
            case ExportRecipe():
                model, dims = self._model("contrastive"), self._setting("contrastive", "dims")
                export_encoder(model, self._tokenizer(), dims, recipe, Path(recipe.folder))

    def _token_table(self, recipe: TokenTableRecipe, folder: Path) -> None:
        pairs, vectors = PairSet.load(self._result("pairs")), TeacherVectors.load(self._result("teacher"))
        start = folder / "initial.npz"
        if not start.exists():
            table = initial_table(self._tokenizer(), pairs, self.teacher(64), vectors, recipe.sif)
            table.save(start)
        table = train_table(TokenTable.load(start), pairs, vectors, recipe, folder)
        table.save(folder / "table.npz")
        _write_dev_scores(pairs, TableEncoder(table.vectors, recipe.norm_eps), folder)

    def _lm(self, recipe: LmRecipe, folder: Path) -> None:
        table = TokenTable.load(self._result("token-table") / "table.npz")
        tokenizer = self._tokenizer()
        model = build_decoder(table.vectors, tokenizer, float(self._setting("token-table", "norm_eps")), recipe)
        mask_id = tokenizer.get_vocab()[MASK]
        train_lm(model, PairSet.load(self._result("pairs")), mask_id, recipe, folder)
        model.save_pretrained(folder / "model")

    def _contrastive(self, recipe: ContrastiveRecipe, folder: Path) -> None:
        pairs, vectors = PairSet.load(self._result("pairs")), TeacherVectors.load(self._result("teacher"))
        table = TokenTable.load(self._result("token-table") / "table.npz")
        model = self._model("lm")
        convert(model, recipe.keep_branches, recipe.branch_std, recipe.seed)
        train_contrastive(model, pairs, vectors, table.rotation, recipe, folder)
        if recipe.branch_share != 1:
            temper(model, table.vectors, recipe.branch_share)
        model.save_pretrained(folder / "model")
        _write_dev_scores(pairs, lambda texts: mean_vectors(model, texts), folder)

    def _tokenizer(self) -> PreTrainedTokenizerBase:
        return AutoTokenizer.from_pretrained(self._result("tokenizer"))

    def _model(self, step: str) -> LlamaForCausalLM:
        model = LlamaForCausalLM.from_pretrained(self._result(step) / "model", dtype=torch.float32)
        model.set_attn_implementation(register())
        return model

    def _result(self, step: str) -> Path:
        folder = self.folder / step
        if not (folder / "finished.json").exists():
            raise DataError(f"{folder} holds no finished {step} step: run it first")
        return folder

    def _setting(self, step: str, key: str) -> Any:
        return json.loads((self._result(step) / "recipe.json").read_text())[key]


def encode_with(forward: Callable[[PackedTexts], Tensor], limit: int = 128, texts_a_batch: int = 256) -> Encode:
    """Makes the development scores' `Encode` of something that turns packed texts into vectors."""

    @torch.no_grad()
    def encode(texts: Ragged, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        batches = [rows[start : start + texts_a_batch] for start in range(0, len(rows), texts_a_batch)]
        return torch.cat([forward(pack(texts, batch, limit)) for batch in batches]).float().numpy()

    return encode


def _write_dev_scores(pairs: PairSet, forward: Callable[[PackedTexts], Tensor], folder: Path) -> None:
    sets, encode = dev_sets(pairs, _DEV_DISTRACTORS), encode_with(forward)
    (folder / "dev.json").write_text(json.dumps(dev_scores(pairs, sets, encode), indent=2) + "\n")
