"""The steps in their order, each with a folder of its own in the run folder; finished ones are not done again."""

from __future__ import annotations

import dataclasses
import json
import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import AutoTokenizer, LlamaForCausalLM, PreTrainedTokenizerBase

from ...kernels.attention import register
from .batches import pack
from .contrastive import convert, temper, train_contrastive
from .decoder import build_decoder, mean_vectors
from .dev import Encode, dev_scores, dev_sets
from .export import export_encoder
from .lm import train_lm
from .model_training import train_model
from .packed_texts import PackedTexts
from .pairs import PairSet, build_pairs
from .ragged import Ragged
from .recipe import (
    ContrastiveRecipe,
    ExportRecipe,
    LmRecipe,
    NamedRecipe,
    PairsRecipe,
    Recipe,
    TeacherRecipe,
    TokenizerRecipe,
    TokenTableRecipe,
)
from .run import Progress
from .settings import RecipeError
from .sources import DataError, data_root
from .teacher import MiniLmTeacher, Teacher, TeacherVectors, embed_pairs
from .token_table import TableEncoder, TokenTable, initial_table, train_table
from .tokenizer import MASK, train_tokenizer, training_texts
from .training_recipe import TrainRecipe

log = logging.getLogger(__name__)

TeacherFactory = Callable[[int], Teacher]
_DEV_DISTRACTORS = 500


@dataclasses.dataclass(frozen=True)
class Run:
    """One run of a recipe folder: where the data is, where results go, who teaches.

    Attributes:
        folder: gets one folder a step.
        data: folder with pairs/, text/ and beir/; None for the one of `sources.data_root`.
        teacher: makes a teacher that reads at most so many tokens.
        device: torch device of trainings; None for the best one here.
        report: called after every step of a training.
    """

    folder: Path
    data: Path | None = None
    teacher: TeacherFactory = MiniLmTeacher
    device: str | None = None
    report: Callable[[Progress], None] | None = None

    def do(self, recipe: Recipe, name: str | None = None) -> bool:
        """Does a step, or continues it where it was interrupted; False if it was finished before.

        Args:
            recipe: the step.
            name: of its folder in the run folder, `.` for the run folder itself; None for the step's own name.

        Raises:
            RecipeError: the step was begun with other settings.
            DataError: the step needs the result of one that has not been run.
        """
        name = name or recipe.step
        folder = self.folder / name
        if self._finished(folder, recipe):
            log.info("%s: finished before", _shown(name))
            return False
        began = time.perf_counter()
        self._perform(recipe, folder)
        (folder / "finished.json").write_text(json.dumps({"seconds_of_last_start": time.perf_counter() - began}))
        log.info("%s: finished in %.0f s", _shown(name), time.perf_counter() - began)
        return True

    def _finished(self, folder: Path, recipe: Recipe) -> bool:
        folder.mkdir(parents=True, exist_ok=True)
        settings = json.dumps(dataclasses.asdict(recipe), indent=2) + "\n"
        file = folder / "recipe.json"
        # What stopped before it left anything, at a wrong field as a rule, may be mended and run again.
        begun = any(path != file for path in folder.iterdir())
        if begun and file.exists() and file.read_text() != settings:
            raise RecipeError(f"{folder} was begun with other settings: remove it, or choose another --run folder")
        file.write_text(settings)
        return (folder / "finished.json").exists()

    def _perform(self, recipe: Recipe, folder: Path) -> None:
        match recipe:
            case TrainRecipe():
                variables = {"RUN": str(self.folder)}
                train_model(recipe, folder, variables=variables, device=self.device, report=self.report)
            case TokenizerRecipe():
                texts = training_texts(self._data(), recipe.sources, recipe.seed)
                train_tokenizer(texts, recipe).save_pretrained(folder)
            case PairsRecipe():
                build_pairs(self._data(), self._tokenizer(), recipe, folder)
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
            initial_table(self._tokenizer(), pairs, self.teacher(64), vectors, recipe.sif).save(start)
        table = train_table(TokenTable.load(start), self._tokenizer(), pairs, vectors, recipe, folder)
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

    def _data(self) -> Path:
        return self.data or data_root()

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


def _shown(name: str) -> str:
    return "training" if name == "." else name


def do_recipes(recipes: Sequence[NamedRecipe], run: Run) -> None:
    """Does recipes in their order; errors as of `Run.do`."""
    for one in recipes:
        run.do(one.recipe, one.folder)


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
