from __future__ import annotations

import hashlib
import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pretune.data import tokenizer
from pretune.errors import DataError

TEXT = st.text(st.characters(exclude_categories=["Cs"]))


@given(TEXT)
def test_any_text_comes_back_from_its_tokens(words, text):
    """Decoding restores any text, spaces, line ends and emoji included."""
    ids = words(text, add_special_tokens=False)["input_ids"]
    assert words.decode(ids, clean_up_tokenization_spaces=False) == text
    assert words.decode(ids) == text


@given(TEXT)
def test_a_text_is_encoded_with_its_special_tokens(words, text):
    """As [CLS] text [SEP], with ids below the size of the vocabulary."""
    ids = words(text)["input_ids"]
    assert (ids[0], ids[-1]) == (words.cls_token_id, words.sep_token_id)
    assert max(ids) < len(words)


def test_training_twice_gives_the_same_bytes(tmp_path):
    """The tokenizer's files are a function of the texts."""
    texts = [f"line {n} of a text that repeats itself {n % 7}" for n in range(500)]
    folders = [tmp_path / name for name in ("one", "two")]
    for folder in folders:
        tokenizer.train(texts, 380, 64).save_pretrained(folder)
    names = [sorted(path.name for path in folder.iterdir()) for folder in folders]
    assert names[0] == names[1]
    for name in names[0]:
        assert (folders[0] / name).read_bytes() == (folders[1] / name).read_bytes()


def test_a_saved_tokenizer_opens_with_the_same_tokens(words, tmp_path):
    """`load` restores what `save_pretrained` wrote, special tokens and length included."""
    words.save_pretrained(tmp_path)
    loaded = tokenizer.load(tmp_path)
    text = "flour and salt, twice: 2 ÷ ½"
    assert loaded(text)["input_ids"] == words(text)["input_ids"]
    assert loaded.mask_token_id == words.mask_token_id
    assert loaded.model_max_length == 64


def test_the_vocabulary_has_the_requested_size():
    """Exactly, if the texts hold enough pairs."""
    texts = [f"word{n} other{n * n} third{n * 31 % 97}" for n in range(2000)]
    assert len(tokenizer.train(texts, 600, 64)) == 600


ENGLISH = [f"word{n} other{n * n} third{n * 31 % 97}, and more of it." for n in range(400)]
CHINESE = [
    f"酒店的房间{'很大' if n % 2 else '不大'},早餐{'丰富' if n % 3 else '一般'},服务{n % 7}分" for n in range(400)
]
TRAIN = """
import hashlib, pathlib, sys
from pretune.data import tokenizer
from test_tokenizer_texts import TEXTS
for kind in tokenizer.KINDS:
    folder = pathlib.Path(sys.argv[1]) / kind
    tokenizer.train(TEXTS, 700, 64, kind=kind).save_pretrained(folder)
"""


@pytest.fixture(scope="module")
def each_kind():
    """A tokenizer of each kind, trained on English and Chinese."""
    return {kind: tokenizer.train(ENGLISH + CHINESE, 900, 64, kind=kind, lowercase=True) for kind in tokenizer.KINDS}


@pytest.mark.parametrize("kind", tokenizer.KINDS)
@pytest.mark.parametrize("text", ["酒店的房间很大,早餐丰富", "third7 other49, and more"])
def test_each_kind_restores_texts_like_those_of_its_training(each_kind, kind, text):
    """In lower case, with special tokens, without [UNK]; WordPiece puts spaces between Chinese characters."""
    words = each_kind[kind]
    ids = words(text.capitalize())["input_ids"]
    assert (ids[0], ids[-1]) == (words.cls_token_id, words.sep_token_id)
    assert tokenizer.UNKNOWN not in words.convert_ids_to_tokens(ids)
    decoded = words.decode(ids, skip_special_tokens=True)
    assert decoded.replace(" ", "") == text.replace(" ", "") if kind == "wordpiece" else decoded == text
    assert len(words) <= 900


@pytest.mark.parametrize("kind", ["byte_bpe", "bpe", "unigram"])
@given(text=st.text(st.characters(exclude_categories=["Cs", "Cc", "Z"], exclude_characters="▁"), min_size=1))
def test_unseen_characters_are_restored_from_their_bytes(each_kind, kind, text):
    """Emoji and other scripts are never unknown."""
    words = each_kind[kind]
    assert words.decode(
        words(text)["input_ids"], skip_special_tokens=True
    ) == words.backend_tokenizer.normalizer.normalize_str(text)


@pytest.mark.slow
def test_every_process_trains_the_same_bytes(tmp_path):
    """Two processes whose hash tables have different orders, for each kind."""
    (tmp_path / "test_tokenizer_texts.py").write_text(f"TEXTS = {ENGLISH + CHINESE!r}", encoding="utf-8")
    path = os.pathsep.join([str(tmp_path), os.getcwd()])  # noqa: PTH109 - what the process inherits
    hashes = []
    for seed in "01":
        folder = tmp_path / seed
        environment = os.environ | {"PYTHONPATH": path, "PYTHONHASHSEED": seed}
        subprocess.run([sys.executable, "-c", TRAIN, folder], env=environment, check=True)
        hashes.append(
            {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.rglob("*.json")}
        )
    assert len(hashes[0]) == 2 * len(tokenizer.KINDS)
    assert hashes[0] == hashes[1]


def test_a_pretrained_tokenizer_is_taken_from_its_folder(words, tmp_path):
    """With the same tokens; its length is the smaller of its own and the requested one."""
    words.save_pretrained(tmp_path)
    assert tokenizer.pretrained(tmp_path, 32)("flour")["input_ids"] == words("flour")["input_ids"]
    assert tokenizer.pretrained(tmp_path, 32).model_max_length == 32
    assert tokenizer.pretrained(tmp_path, 512).model_max_length == 64


def test_a_folder_without_a_tokenizer_is_an_error_and_so_is_one_with_code(tmp_path):
    """The message lists the kinds that can be trained."""
    with pytest.raises(DataError, match="holds no tokenizer") as caught:
        tokenizer.pretrained(tmp_path, 32)
    assert "wordpiece" in caught.value.next_step
    (tmp_path / "tokenizer_config.json").write_text('{"auto_map": {"AutoTokenizer": "x.Y"}}', encoding="utf-8")
    with pytest.raises(DataError, match="asks to run code"):
        tokenizer.pretrained(tmp_path, 32)
