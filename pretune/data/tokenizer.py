"""Tokenizers: learnt from the corpus itself, the same bytes each time, or a pretrained one from a folder.

The trainers of `tokenizers` walk through hash tables whose order changes from process to process. What
that order could decide (the alphabet, the numbers of its characters, last bits of scores) is fixed here.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from pretune.errors import DataError
from pretune.predictor import inputs

SPECIAL = {"pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]"}
UNKNOWN = "[UNK]"
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
ALPHABET = 0.6  # of the vocabulary, at most, are single characters: Chinese has thousands

Texts = Callable[[], Iterable[str]]  # gone through more than once


def train(
    texts: Iterable[str],
    vocabulary_size: int,
    max_length: int,
    *,
    kind: str = "byte_bpe",
    lowercase: bool = False,
) -> PreTrainedTokenizerFast:
    """Learn a tokenizer of `vocabulary_size` tokens that encodes as [CLS] text [SEP].

    byte_bpe: BPE on bytes (Radford et al. 2019), every text comes back. bpe: BPE on characters (Sennrich
    et al. 2016), others by their bytes. wordpiece: as BERT (Devlin et al. 2019), Chinese characters each
    by itself, what is unknown is [UNK]. unigram: Kudo 2018, other characters by their bytes.
    """
    given = list(texts)
    tokenizer = KINDS[kind](given, vocabulary_size, lowercase)
    ends = [(SPECIAL[name], tokenizer.token_to_id(SPECIAL[name])) for name in ("cls_token", "sep_token")]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=ends
    )
    known = SPECIAL if kind == "byte_bpe" else SPECIAL | {"unk_token": UNKNOWN}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=max_length, **known)


def _byte_bpe(texts: list[str], size: int, lowercase: bool) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    if lowercase:
        tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=list(SPECIAL.values()),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def _bpe(texts: list[str], size: int, lowercase: bool) -> Tokenizer:
    tokenizer = _spaced(models.BPE(byte_fallback=True, unk_token=UNKNOWN), lowercase)
    special = [*SPECIAL.values(), UNKNOWN, *BYTES]
    alphabet = _alphabet(tokenizer, texts, int(ALPHABET * (size - len(special))))
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=special,
        initial_alphabet=alphabet,
        limit_alphabet=len(alphabet),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return _with_model(tokenizer, lambda vocabulary, model: models.BPE(
        vocabulary, [tuple(pair) for pair in model["merges"]], byte_fallback=True, unk_token=UNKNOWN
    ))  # fmt: skip


def _wordpiece(texts: list[str], size: int, lowercase: bool) -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece(unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    special = [*SPECIAL.values(), UNKNOWN]
    alphabet = _alphabet(tokenizer, texts, int(ALPHABET * (size - len(special)) / 2))
    trainer = trainers.WordPieceTrainer(
        vocab_size=size,
        special_tokens=[*special, *[f"##{character}" for character in alphabet]],  # fixes their numbers
        initial_alphabet=alphabet,
        limit_alphabet=len(alphabet),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return _with_model(tokenizer, lambda vocabulary, _: models.WordPiece(vocabulary, unk_token=UNKNOWN))


def _unigram(texts: list[str], size: int, lowercase: bool) -> Tokenizer:
    tokenizer = _spaced(models.Unigram(), lowercase)
    special = [*SPECIAL.values(), UNKNOWN]
    trainer = trainers.UnigramTrainer(
        vocab_size=size - len(BYTES),
        special_tokens=special,
        unk_token=UNKNOWN,
        initial_alphabet=_alphabet(tokenizer, texts, int(ALPHABET * (size - len(BYTES)))),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    counts = np.zeros(tokenizer.get_vocab_size(), np.int64)
    for encoding in tokenizer.encode_batch_fast(texts, add_special_tokens=False):
        np.add.at(counts, encoding.ids, 1)
    pieces = {piece: int(counts[number]) for piece, number in tokenizer.get_vocab().items() if piece not in special}
    total = counts.sum()
    learnt = [(piece, round(float(np.log(max(count, 0.5) / total)), 6)) for piece, count in pieces.items()]
    fixed = [(piece, 0.0) for piece in [*special, *BYTES]]
    vocabulary = fixed + sorted(learnt, key=lambda entry: (-entry[1], entry[0]))
    return _with_model(tokenizer, lambda *_: models.Unigram(vocabulary, special.index(UNKNOWN), byte_fallback=True))


KINDS: dict[str, Callable[[list[str], int, bool], Tokenizer]] = {
    "byte_bpe": _byte_bpe,
    "bpe": _bpe,
    "wordpiece": _wordpiece,
    "unigram": _unigram,
}


def _spaced(model: Any, lowercase: bool) -> Tokenizer:
    """Spaces belong to the words after them; punctuation stands alone, so that unspaced scripts fall into clauses."""
    tokenizer = Tokenizer(model)
    if lowercase:
        tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Metaspace(), pre_tokenizers.Punctuation()])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return tokenizer


def _alphabet(tokenizer: Tokenizer, texts: list[str], most: int) -> list[str]:
    """The commonest characters that the tokenizer sees in the texts; of equally common ones the first in Unicode."""
    counts: Counter[str] = Counter()
    for text in texts:
        normal = tokenizer.normalizer.normalize_str(text) if tokenizer.normalizer else text
        counts.update("".join(piece for piece, _ in tokenizer.pre_tokenizer.pre_tokenize_str(normal)))
    return sorted(sorted(counts, key=lambda character: (-counts[character], character))[:most])


def _with_model(tokenizer: Tokenizer, model: Callable[[dict[str, int], dict[str, Any]], Any]) -> Tokenizer:
    """The same around a model made anew, so that only what is special counts as such."""
    trained = json.loads(tokenizer.to_str())["model"]
    vocabulary = dict(sorted(tokenizer.get_vocab().items(), key=lambda entry: entry[1]))
    fresh = Tokenizer(model(vocabulary, trained))
    for part in ("normalizer", "pre_tokenizer", "decoder"):
        if getattr(tokenizer, part) is not None:
            setattr(fresh, part, getattr(tokenizer, part))
    fresh.add_special_tokens([*SPECIAL.values(), UNKNOWN])
    return fresh


def pretrained(folder: Path, max_length: int) -> PreTrainedTokenizerFast:
    """The tokenizer in a folder, reading at most `max_length` tokens. Raises DataError where it is none to be used."""
    config = folder / "tokenizer_config.json"
    if config.is_file() and '"auto_map"' in config.read_text(encoding="utf-8"):
        raise DataError(f"{config} asks to run code (`auto_map`), which is never done", "use another tokenizer")
    try:
        words = load(folder)
    except (OSError, ValueError) as error:
        raise DataError(
            f"prepare.tokenizer: {folder} holds no tokenizer ({error})",
            f"name a folder with tokenizer.json, or one of {', '.join(KINDS)}",
        ) from None
    if not isinstance(words, PreTrainedTokenizerFast):
        raise DataError(f"prepare.tokenizer: {folder} has no tokenizer.json", "save it with `tokenizers` first")
    if words.pad_token is None:
        words.pad_token = words.eos_token or words.unk_token
    words.model_max_length = min(words.model_max_length, max_length)
    return words


def load(folder: Path) -> PreTrainedTokenizerBase:
    """Open a tokenizer folder; nothing is fetched and no code from it is run."""
    tokenizer = inputs.tokenizer(folder)
    assert isinstance(tokenizer, PreTrainedTokenizerBase)
    return tokenizer
