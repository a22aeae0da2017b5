"""Tokenizers: trained on the corpus, with the same bytes each time, or pretrained ones from a folder.

The trainers of `tokenizers` iterate over hash tables whose order changes from process to process. What that order
could change (the alphabet, the ids of its characters, the last bits of scores) is fixed here.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from pretune.errors import DataError
from pretune.predictor import inputs

if TYPE_CHECKING:  # transformers takes a second to import, and `pretune init` asks for KINDS only
    from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

SPECIAL = {"pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]"}
UNKNOWN = "[UNK]"
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
ALPHABET = 0.6  # the largest share of the vocabulary that single characters take: Chinese has thousands


def train(
    texts: Iterable[str],
    vocabulary_size: int,
    max_length: int,
    *,
    kind: str = "byte_bpe",
    lowercase: bool = False,
) -> PreTrainedTokenizerFast:
    """Train a tokenizer of `vocabulary_size` tokens that encodes as [CLS] text [SEP].

    byte_bpe: BPE on bytes, without loss (Radford et al. 2019). bpe: BPE on characters (Sennrich et al. 2016), with
    byte fallback. wordpiece: as BERT (Devlin et al. 2019), each Chinese character by itself, the unknown as [UNK].
    unigram: Kudo 2018, with byte fallback.
    """
    from transformers import PreTrainedTokenizerFast

    tokenizer = KINDS[kind](list(texts), vocabulary_size, lowercase)
    special_tokens = [(SPECIAL[name], tokenizer.token_to_id(SPECIAL[name])) for name in ("cls_token", "sep_token")]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=special_tokens
    )
    special = SPECIAL if kind == "byte_bpe" else SPECIAL | {"unk_token": UNKNOWN}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=max_length, **special)


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
        special_tokens=[*special, *[f"##{character}" for character in alphabet]],  # fixes their ids
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
    pieces = {piece: int(counts[index]) for piece, index in tokenizer.get_vocab().items() if piece not in special}
    total = counts.sum()
    scores = [(piece, round(float(np.log(max(count, 0.5) / total)), 6)) for piece, count in pieces.items()]
    fixed = [(piece, 0.0) for piece in [*special, *BYTES]]
    vocabulary = fixed + sorted(scores, key=lambda entry: (-entry[1], entry[0]))
    return _with_model(tokenizer, lambda *_: models.Unigram(vocabulary, special.index(UNKNOWN), byte_fallback=True))


KINDS: dict[str, Callable[[list[str], int, bool], Tokenizer]] = {
    "byte_bpe": _byte_bpe,
    "bpe": _bpe,
    "wordpiece": _wordpiece,
    "unigram": _unigram,
}


def _spaced(model: Any, lowercase: bool) -> Tokenizer:
    """Attach spaces to the next word and split off punctuation, which cuts scripts without spaces into clauses."""
    tokenizer = Tokenizer(model)
    if lowercase:
        tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Metaspace(), pre_tokenizers.Punctuation()])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return tokenizer


def _alphabet(tokenizer: Tokenizer, texts: list[str], size: int) -> list[str]:
    """The `size` commonest characters after normalization, sorted; ties go to the lower code point."""
    counts: Counter[str] = Counter()
    for text in texts:
        normal = tokenizer.normalizer.normalize_str(text) if tokenizer.normalizer else text
        counts.update("".join(piece for piece, _ in tokenizer.pre_tokenizer.pre_tokenize_str(normal)))
    return sorted(sorted(counts, key=lambda character: (-counts[character], character))[:size])


def _with_model(tokenizer: Tokenizer, model: Callable[[dict[str, int], dict[str, Any]], Any]) -> Tokenizer:
    """The tokenizer around a new model: the added tokens are special, and no others."""
    trained = json.loads(tokenizer.to_str())["model"]
    vocabulary = dict(sorted(tokenizer.get_vocab().items(), key=lambda entry: entry[1]))
    fresh = Tokenizer(model(vocabulary, trained))
    for part in ("normalizer", "pre_tokenizer", "decoder"):
        if getattr(tokenizer, part) is not None:
            setattr(fresh, part, getattr(tokenizer, part))
    fresh.add_special_tokens([*SPECIAL.values(), UNKNOWN])
    return fresh


def pretrained(folder: Path, max_length: int) -> PreTrainedTokenizerFast:
    """The tokenizer in a folder, for at most `max_length` tokens. Raises DataError where it cannot be used."""
    from transformers import PreTrainedTokenizerFast

    config = folder / "tokenizer_config.json"
    if config.is_file() and b'"auto_map"' in config.read_bytes():
        raise DataError(f"{config} asks to run code (`auto_map`), which is never done", "name another tokenizer")
    try:
        tokenizer = load(folder)
    except Exception as error:  # transformers raises many kinds where parts are missing, tokenizers a plain one
        raise DataError(
            f"prepare.tokenizer: {folder} holds no tokenizer ({error})",
            f"name a folder with tokenizer.json, or one of {', '.join(KINDS)}",
        ) from None
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise DataError(f"prepare.tokenizer: {folder} has no tokenizer.json", "save it with `tokenizers` first")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    tokenizer.model_max_length = min(tokenizer.model_max_length, max_length)
    return tokenizer


def load(folder: Path) -> PreTrainedTokenizerBase:
    """Load a tokenizer from a folder; nothing is downloaded, and no code in it is run."""
    from transformers import PreTrainedTokenizerBase

    tokenizer = inputs.tokenizer(folder)
    assert isinstance(tokenizer, PreTrainedTokenizerBase)
    return tokenizer
