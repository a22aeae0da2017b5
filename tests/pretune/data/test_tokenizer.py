from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pretune.data import tokenizer

TEXT = st.text(st.characters(exclude_categories=["Cs"]))


@given(TEXT)
def test_any_text_comes_back_from_its_tokens(words, text):
    """Byte-level: whatever goes in comes out, spaces, line ends and emoji included."""
    ids = words(text, add_special_tokens=False)["input_ids"]
    assert words.decode(ids, clean_up_tokenization_spaces=False) == text
    assert words.decode(ids) == text


@given(TEXT)
def test_a_text_stands_between_its_marks(words, text):
    """Encoded as [CLS] text [SEP], with ids below the vocabulary's size."""
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
    """`load` gives back what `save_pretrained` wrote, special tokens and length included."""
    words.save_pretrained(tmp_path)
    loaded = tokenizer.load(tmp_path)
    text = "flour and salt, twice: 2 ÷ ½"
    assert loaded(text)["input_ids"] == words(text)["input_ids"]
    assert loaded.mask_token_id == words.mask_token_id
    assert loaded.model_max_length == 64


def test_the_vocabulary_has_the_size_asked_for():
    """Where the texts hold enough pairs, the vocabulary is exactly as large as asked."""
    texts = [f"word{n} other{n * n} third{n * 31 % 97}" for n in range(2000)]
    assert len(tokenizer.train(texts, 600, 64)) == 600
