"""The tokenizer: trained (byte-level BPE that keeps case and splits camelCase and snake_case), or the teacher's."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from .recipe import TokenizerRecipe
from .sources import DataError, read_pairs, read_texts

BOS, EOS, PAD, MASK = "<bos>", "<eos>", "<pad>", "<mask>"

# Words keep their leading space; an upper-case run ends where a capitalised word starts, so that parseHTMLPage is
# parse|HTML|Page; numbers stay whole up to four digits (years).
_WORDS = (
    r"'(?:[sdmt]|ll|ve|re)\b| ?\p{Lu}?[\p{Ll}\p{M}]+| ?\p{Lu}+(?![\p{Ll}])| ?[\p{Lt}\p{Lm}\p{Lo}\p{M}]+"
    r"| ?\p{N}{1,4}| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
)


def build_tokenizer(lowercase: bool = False) -> Tokenizer:
    """An untrained byte-level BPE tokenizer; lossless up to Unicode NFC unless `lowercase`."""
    tokenizer = Tokenizer(models.BPE())
    steps = [normalizers.NFC(), *([normalizers.Lowercase()] if lowercase else [])]
    tokenizer.normalizer = normalizers.Sequence(steps)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORDS), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def special_tokens(reserved: int) -> list[str]:
    """The special tokens in id order: pad is 0, bos 1, eos 2, mask 3, then the reserved ones."""
    return [PAD, BOS, EOS, MASK, *(f"<reserved-{i}>" for i in range(reserved))]


def train_tokenizer(texts: Iterator[str], recipe: TokenizerRecipe) -> PreTrainedTokenizerFast:
    """Trains the tokenizer on `texts` and wraps it for transformers (BOS is added, right padding)."""
    tokenizer = build_tokenizer(recipe.lowercase)
    trainer = trainers.BpeTrainer(
        vocab_size=recipe.vocab_size,
        special_tokens=special_tokens(recipe.reserved_tokens),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
        max_token_length=24,
    )
    tokenizer.train_from_iterator(texts, trainer=trainer)
    bos_id = tokenizer.token_to_id(BOS)
    tokenizer.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=True, add_prefix_space=False),
            processors.TemplateProcessing(single=f"{BOS} $A", pair=f"{BOS} $A $B", special_tokens=[(BOS, bos_id)]),
        ]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        mask_token=MASK,
        padding_side="right",
        truncation_side="right",
        model_max_length=512,
        clean_up_tokenization_spaces=False,
    )


def inherited_tokenizer(folder: Path) -> tuple[PreTrainedTokenizerFast, list[int]]:
    """A BERT's WordPiece tokenizer without the entries its vocabulary holds in reserve ("[unused0]", ...).

    Args:
        folder: of the BERT; needs tokenizer.json.

    Returns:
        The tokenizer, and for each of its ids the one in the BERT's vocabulary.

    Raises:
        DataError: the folder holds no WordPiece tokenizer.
    """
    file = folder / "tokenizer.json"
    raw = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    if raw.get("model", {}).get("type") != "WordPiece":
        raise DataError(f"{folder} holds no tokenizer.json with a WordPiece vocabulary")
    theirs: dict[str, int] = raw["model"]["vocab"]
    kept = [token for token in sorted(theirs, key=theirs.__getitem__) if not re.fullmatch(r"\[unused\d+\]", token)]
    ours = {token: number for number, token in enumerate(kept)}
    raw["model"]["vocab"] = ours
    for added in raw["added_tokens"]:
        added["id"] = ours[added["content"]]
    for special in raw["post_processor"]["special_tokens"].values():
        special["ids"] = [ours[token] for token in special["tokens"]]
    raw |= {"truncation": None, "padding": None}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(raw)),
        bos_token="[CLS]",
        eos_token="[SEP]",
        pad_token="[PAD]",
        unk_token="[UNK]",
        mask_token="[MASK]",
        padding_side="right",
        truncation_side="right",
        model_max_length=512,
        clean_up_tokenization_spaces=False,
    )
    return tokenizer, [theirs[token] for token in kept]


def training_texts(root: Path, sources: dict[str, int], seed: int) -> Iterator[str]:
    """Yields random texts of each source, up to its budget in characters; repeated texts count once."""
    for name, budget in sources.items():
        texts = sorted(set(_source_texts(root, name)))
        random.Random(f"{seed}:{name}").shuffle(texts)
        size = 0
        for text in texts:
            yield text
            size += len(text)
            if size >= budget:
                break


def _source_texts(root: Path, name: str) -> Iterator[str]:
    if (root / "pairs" / f"{name}.jsonl.gz").is_file():
        for pair in read_pairs(root, name):
            yield from (pair.query, pair.positive)
        return
    for _, text in read_texts(root, name):
        yield from (text[start : start + 4_000] for start in range(0, len(text), 4_000))
