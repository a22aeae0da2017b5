from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pretune.data.similarity import duplicates, minhash
from pretune.data.similarity.duplicates import Duplicates, fingerprints
from pretune.data.similarity.shingles import normalize, shingles

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)


def n_grams(text, length):
    """All n-grams of a text, in order, in plain Python."""
    text = text.ljust(length)
    return [text[start : start + length] for start in range(len(text) - length + 1)]


def jaccard(first, second):
    """The Jaccard similarity of the sets of n-grams."""
    first, second = (set(n_grams(normalize(text), minhash.SHINGLE)) for text in (first, second))
    return len(first & second) / len(first | second)


@given(st.lists(TEXT, min_size=1, max_size=8), st.integers(1, 9))
def test_equal_n_grams_and_no_others_have_equal_hashes(texts, length):
    """At any position, in any text."""
    hashes, owner = shingles(texts, length)
    by_n_gram = {}
    for number, text in enumerate(texts):
        for n_gram, value in zip(n_grams(text, length), hashes[owner == number].tolist(), strict=True):
            assert by_n_gram.setdefault(n_gram, value) == value
    assert len(set(by_n_gram.values())) == len(by_n_gram)


def sentences(draw, count, words=300):
    """Texts of random words."""
    vocabulary = ["".join(draw.choice(list("abcdefghijklm"), 5)) for _ in range(2000)]
    return [" ".join(draw.choice(vocabulary, words)) for _ in range(count)]


@pytest.mark.parametrize(("words", "error"), [(8, 0.09), (60, 0.06), (600, 0.05)])
def test_sketches_estimate_the_jaccard_similarity(words, error):
    """The root mean squared error over pairs of all similarities, for short and for long texts."""
    draw = np.random.default_rng(0)
    errors = []
    for first in sentences(draw, 120, words):
        parts = first.split()
        for index in draw.choice(words, draw.integers(0, words // 2 + 1), replace=False):
            parts[index] = "x" * 5
        second = " ".join(parts)
        sketch, _ = minhash.sketches([normalize(first), normalize(second)])
        errors.append(minhash.similarity(sketch[:1], sketch[1:])[0] - jaccard(first, second))
    assert np.sqrt(np.mean(np.square(errors))) < error


def test_similar_texts_share_a_band():
    """199 of two hundred pairs with a similarity of about 0.8 to 0.9, or all."""
    draw = np.random.default_rng(1)
    shared = 0
    for first in sentences(draw, 200, 100):
        parts = first.split()
        for index in draw.choice(100, 4, replace=False):
            parts[index] = "other"
        second = " ".join(parts)
        assert 0.75 < jaccard(first, second) < 0.95
        bands = minhash.sketches([normalize(first), normalize(second)])[1]
        shared += bool((bands[0] == bands[1]).any())
    assert shared >= 199


@given(st.lists(TEXT, min_size=1, max_size=8), st.randoms())
def test_a_sketch_depends_on_its_text_alone(texts, random):
    """Not on the texts in the same batch, nor on case and white space."""
    together, bands = minhash.sketches([normalize(text) for text in texts])
    for number, text in enumerate(texts):
        alone, bands_alone = minhash.sketches([normalize(f"  {text.lower()} ".replace(" ", "  "))])
        if normalize(text.lower()) == normalize(text):
            assert np.array_equal(alone[0], together[number])
            assert np.array_equal(bands_alone[0], bands[number])


def find(folder, rows, *, near=0.8, chunk=7):
    """The row that each row duplicates exactly, and the one that it duplicates nearly, -1 for none."""
    folder.mkdir(exist_ok=True)
    search = Duplicates(folder, near=near)
    for start in range(0, len(rows), chunk):
        search.add(fingerprints(rows[start : start + chunk], near=bool(near)))
    original, exact = search.find()
    return np.where(exact, original, -1).tolist(), np.where(exact, -1, original).tolist()


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from(["", "x"])), max_size=30), st.integers(1, 9))
def test_of_equal_rows_one_is_kept(tmp_path_factory, pairs, part):
    """The first with a label, else the first, for any size of the parts that are sorted."""
    rows = [{"text": text} | ({"label": label} if label else {}) for text, label in pairs]
    folder = tmp_path_factory.mktemp("duplicates")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(duplicates, "PART", part)
        exact, _ = find(folder, rows, near=None)
    for number, (text, _) in enumerate(pairs):
        same = [n for n, (other, _) in enumerate(pairs) if other == text]
        kept = next((n for n in same if pairs[n][1]), same[0])
        assert exact[number] == (-1 if number == kept else kept)


@given(st.integers(1, 60), st.integers(0, 60))
def test_rows_that_are_added_do_not_displace_others(tmp_path_factory, count, more):
    """Of labelled rows the first is kept, so a longer source keeps the rows that a shorter one kept."""
    draw = np.random.default_rng(count)
    bases = sentences(draw, 8, 20)
    rows = [{"text": f"{bases[draw.integers(8)]} {draw.integers(5)}", "label": "x"} for _ in range(count + more)]
    folders = [tmp_path_factory.mktemp("duplicates") for _ in range(2)]
    few, many = find(folders[0], rows[:count]), find(folders[1], rows)
    assert [many[kind][:count] for kind in (0, 1)] == list(few)


def test_near_duplicates_are_found_and_no_kept_rows_are_similar(tmp_path):
    """Each planted copy with a changed word is found, and no other text."""
    draw = np.random.default_rng(2)
    texts = sentences(draw, 60, 60)
    copies = [text.rsplit(" ", 1)[0] + " changed" for text in texts[:20]]
    rows = [{"text": text} for text in texts + copies]
    exact, near = find(tmp_path / "work", rows)
    assert exact == [-1] * 80
    assert near == [-1] * 60 + list(range(20))


def test_rows_of_two_texts_are_near_only_if_both_are(tmp_path):
    """Questions about one passage are no duplicates, nor is one question about several passages."""
    passages = sentences(np.random.default_rng(3), 4, 60)
    questions = [f"is it the {place}?" for place in ("harbour", "orchard", "station")]
    rows = [{"text": question, "pair": passage} for passage in passages for question in questions]
    near = [row | {"pair": row["pair"] + " changed"} for row in rows[4:6]]
    others = [{"text": row["pair"], "target": row["text"]} for row in rows[:3]] + [{"text": passages[0]}]
    assert find(tmp_path / "work", rows + near + others) == ([-1] * 18, [-1] * 12 + [4, 5] + [-1] * 4)


def test_near_texts_with_different_labels_are_no_duplicates(tmp_path):
    """A text without a label may repeat either."""
    first = "I have seen this film three times with my children, and it was not bad at all"
    second = first.replace("not ", "")
    labelled = [{"text": first, "label": "good"}, {"text": second, "label": "bad"}]
    assert find(tmp_path / "a", labelled) == ([-1, -1], [-1, -1])
    assert find(tmp_path / "b", [labelled[0], labelled[1] | {"label": "good"}]) == ([-1, -1], [-1, 0])
    assert find(tmp_path / "c", [labelled[0], {"text": second}]) == ([-1, -1], [-1, 0])


def test_chinese_texts_are_compared_like_others(tmp_path):
    """By n-grams of characters, not by words."""
    first = "距离川沙公路较近但是公交指示不对如果是蔡陆线的话会非常麻烦建议用别的路线房间较为简单早餐也不错"
    rows = [
        {"text": first},
        {"text": first.replace("简单", "干净")},
        {"text": "商务大床房房间很大床有2M宽整体感觉经济实惠不错"},
    ]
    assert find(tmp_path / "work", rows, near=0.7) == ([-1, -1, -1], [-1, 0, -1])


def test_memory_holds_the_candidates_of_one_band(tmp_path, monkeypatch):
    """In a large data set many texts share a band by chance."""
    monkeypatch.setattr(duplicates, "PAIRS", 256)
    draw, rows = np.random.default_rng(0), 4_000
    prints = {"keys": draw.bytes(16 * rows), "order": bytes(rows), "texts": b"\1" * rows}
    prints["labels"] = bytes(8 * rows)
    prints["sketches"] = draw.bytes(2 * minhash.BINS * rows)
    prints |= {name: draw.integers(0, rows // 10, rows, np.uint64).tobytes() for name in duplicates.BANDS}
    search = Duplicates(tmp_path, near=0.8)
    search.add(prints)
    tracemalloc.start()
    original, _ = search.find()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert not (original >= 0).any()
    assert peak < 3e6, "all candidates are 25 times 7,200 pairs: 3 MB at 16 bytes each, and more to sort them"
