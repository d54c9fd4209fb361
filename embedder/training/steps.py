"""The steps in their order, each with a folder of its own in the run folder; finished ones are not done again."""

from __future__ import annotations

import dataclasses
import json
import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoTokenizer, LlamaForCausalLM, PreTrainedTokenizerBase

from ...kernels.attention import register
from ..device import choose_device
from .dev import Encode, dev_scores, dev_sets
from .distillation import train_distil
from .export import export_encoder
from .inherit import inherit
from .model_training import train_model
from .packed_texts import PackedTexts
from .pair_tokens import PairTokens
from .pairs import PairSet, build_pairs
from .ragged import Ragged
from .recipe import (
    DistilRecipe,
    ExportRecipe,
    InheritRecipe,
    NamedRecipe,
    PairsRecipe,
    Recipe,
    TermsRecipe,
    TokenizerRecipe,
)
from .run import Progress
from .settings import RecipeError
from .sources import DataError, data_root
from .states import hidden_states, text_means
from .teacher import TokenTeacher, load_bert, minilm_folder
from .term_head import HEAD, train_terms
from .tokenizer import inherited_tokenizer, train_tokenizer, training_texts
from .training_recipe import TrainRecipe

log = logging.getLogger(__name__)

_DEV_DISTRACTORS = 500


@dataclasses.dataclass(frozen=True)
class Run:
    """One run of a recipe folder: where the data is, where results go, who teaches.

    Attributes:
        folder: gets one folder a step.
        data: folder with pairs/, text/ and beir/; None for the one of `sources.data_root`.
        teacher: finds the folder of the teacher.
        device: torch device of every step that computes with a model; None for the best one here.
        report: called after every step of a training.
    """

    folder: Path
    data: Path | None = None
    teacher: Callable[[], Path] = minilm_folder
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
            case TokenizerRecipe(of_teacher=True):
                inherited_tokenizer(self.teacher())[0].save_pretrained(folder)
            case TokenizerRecipe():
                texts = training_texts(self._data(), recipe.sources, recipe.seed)
                train_tokenizer(texts, recipe).save_pretrained(folder)
            case PairsRecipe():
                build_pairs(self._data(), self._tokenizer(), recipe, folder)
            case InheritRecipe():
                self._inherit(recipe, folder)
            case DistilRecipe():
                self._distil(recipe, folder)
            case TermsRecipe():
                self._terms(recipe, folder)
            case ExportRecipe():
                model, dims = self._model("distil"), self._setting("distil", "dims")
                head = load_file(self._result("terms") / HEAD)
                export_encoder(model, self._axes(), head, self._tokenizer(), dims, recipe, Path(recipe.folder))

    def _inherit(self, recipe: InheritRecipe, folder: Path) -> None:
        pairs = PairSet.load(self._result("pairs"))
        texts, _ = PairTokens(pairs, recipe.seed, recipe.fit_tokens, {recipe.fit_limit: 1.0})[0]
        tokenizer, rows = inherited_tokenizer(self.teacher())
        bert = load_bert(self.teacher(), self.device)
        model, axes = inherit(bert, texts, torch.tensor(rows), recipe)
        for name in ("pad_token_id", "bos_token_id", "eos_token_id"):
            setattr(model.config, name, getattr(tokenizer, name))
        model.save_pretrained(folder / "model")
        np.save(folder / "axes.npy", axes.cpu().numpy())
        self._write_dev_scores(model, pairs, folder)

    def _distil(self, recipe: DistilRecipe, folder: Path) -> None:
        pairs, model = PairSet.load(self._result("pairs")), self._model("inherit", self.device)
        _, rows = inherited_tokenizer(self.teacher())
        teacher = TokenTeacher.load(self.teacher(), rows, self.device)
        train_distil(model, teacher, self._axes().to(model.device), pairs, recipe, folder, self.report)
        model.save_pretrained(folder / "model")
        self._write_dev_scores(model, pairs, folder)

    def _terms(self, recipe: TermsRecipe, folder: Path) -> None:
        pairs, model = PairSet.load(self._result("pairs")), self._model("distil", self.device)
        special = self._tokenizer().all_special_ids
        head = train_terms(model, pairs, special, recipe, folder, self.report)
        save_file({name: part.detach() for name, part in head.named_parameters()}, folder / HEAD)
        terms = torch.tensor(sorted({*range(len(head.terms))} - {*special}), device=model.device)
        encode = encode_with(lambda texts: head(hidden_states(model, texts), texts, terms), model.device)
        scores = dev_scores(pairs, dev_sets(pairs, _DEV_DISTRACTORS), encode, unit=False)
        (folder / "dev.json").write_text(json.dumps(scores, indent=2) + "\n")

    def _write_dev_scores(self, model: LlamaForCausalLM, pairs: PairSet, folder: Path) -> None:
        encode = encode_with(lambda texts: text_means(hidden_states(model, texts), texts), model.device)
        scores = dev_scores(pairs, dev_sets(pairs, _DEV_DISTRACTORS), encode)
        (folder / "dev.json").write_text(json.dumps(scores, indent=2) + "\n")

    def _axes(self) -> Tensor:
        return torch.from_numpy(np.load(self._result("inherit") / "axes.npy"))

    def _data(self) -> Path:
        return self.data or data_root()

    def _tokenizer(self) -> PreTrainedTokenizerBase:
        return AutoTokenizer.from_pretrained(self._result("tokenizer"))

    def _model(self, step: str, device: str | None = "cpu") -> LlamaForCausalLM:
        place = choose_device(device)
        model = LlamaForCausalLM.from_pretrained(self._result(step) / "model", dtype=torch.float32)
        cast(nn.Module, model).to(place)
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


def encode_with(
    forward: Callable[[PackedTexts], Tensor], device: torch.device, limit: int = 128, texts_a_batch: int = 256
) -> Encode:
    """Makes the development scores' `Encode` of something that turns packed texts on a device into vectors."""

    @torch.no_grad()
    def encode(texts: Ragged, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        parts = [rows[start : start + texts_a_batch] for start in range(0, len(rows), texts_a_batch)]
        batches = [PackedTexts.of([texts[int(row)][:limit] for row in part]) for part in parts]
        return torch.cat([forward(batch.to(device)) for batch in batches]).float().cpu().numpy()

    return encode
