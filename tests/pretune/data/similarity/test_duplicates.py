from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pretune.data.similarity import duplicates, minhash
from pretune.data.similarity.duplicates import Duplicates, fingerprints
from pretune.data.similarity.shingles import plain, shingles

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)


def runs(text, length):
    """The set that shingles stand for, in plain Python."""
    text = text.ljust(length)
    return {text[place : place + length] for place in range(len(text) - length + 1)}


def jaccard(first, second):
    """Of the sets of runs."""
    first, second = (runs(plain(text), minhash.SHINGLE) for text in (first, second))
    return len(first & second) / len(first | second)


@given(st.lists(TEXT, min_size=1, max_size=8), st.integers(1, 9))
def test_equal_runs_and_no_others_have_equal_hashes(texts, length):
    """Wherever a run stands, in whichever text."""
    hashes, owner = shingles(texts, length)
    by_run = {}
    for number, text in enumerate(texts):
        padded = text.ljust(length)
        found = [padded[place : place + length] for place in range(len(padded) - length + 1)]
        assert len(found) == (owner == number).sum()
        for run, value in zip(found, hashes[owner == number].tolist(), strict=True):
            assert by_run.setdefault(run, value) == value
    assert len(set(by_run.values())) == len(by_run)


def sentences(draw, count, words=300):
    """Texts of random words."""
    vocabulary = ["".join(draw.choice(list("abcdefghijklm"), 5)) for _ in range(2000)]
    return [" ".join(draw.choice(vocabulary, words)) for _ in range(count)]


@pytest.mark.parametrize(("words", "error"), [(8, 0.09), (60, 0.06), (600, 0.05)])
def test_sketches_estimate_the_jaccard_similarity(words, error):
    """The root of the mean squared error over pairs of all similarities, for short and for long texts."""
    draw = np.random.default_rng(0)
    errors = []
    for first in sentences(draw, 120, words):
        parts = first.split()
        for place in draw.choice(words, draw.integers(0, words // 2 + 1), replace=False):
            parts[place] = "x" * 5
        second = " ".join(parts)
        sketch, _ = minhash.sketches([plain(first), plain(second)])
        errors.append(minhash.similarity(sketch[:1], sketch[1:])[0] - jaccard(first, second))
    assert np.sqrt(np.mean(np.square(errors))) < error


def test_similar_texts_share_a_band():
    """Of two hundred pairs with a similarity of 0.8 to 0.9, all."""
    draw = np.random.default_rng(1)
    shared = 0
    for first in sentences(draw, 200, 100):
        parts = first.split()
        for place in draw.choice(100, 4, replace=False):
            parts[place] = "other"
        second = " ".join(parts)
        assert 0.75 < jaccard(first, second) < 0.95
        bands = minhash.sketches([plain(first), plain(second)])[1]
        shared += bool((bands[0] == bands[1]).any())
    assert shared >= 199


@given(st.lists(TEXT, min_size=1, max_size=8), st.randoms())
def test_a_sketch_depends_on_its_text_alone(texts, random):
    """Not on the texts that are sketched with it, nor on case and blanks."""
    together, bands = minhash.sketches([plain(text) for text in texts])
    for number, text in enumerate(texts):
        alone, its_bands = minhash.sketches([plain(f"  {text.lower()} ".replace(" ", "  "))])
        if plain(text.lower()) == plain(text):
            assert np.array_equal(alone[0], together[number])
            assert np.array_equal(its_bands[0], bands[number])


def found(folder, rows, *, near=0.8, chunk=7):
    """What each row repeats exactly and nearly."""
    folder.mkdir(exist_ok=True)
    search = Duplicates(folder, near=near)
    for start in range(0, len(rows), chunk):
        search.add(fingerprints(rows[start : start + chunk], near=bool(near)))
    of, exact = search.find()
    return np.where(exact, of, -1).tolist(), np.where(exact, -1, of).tolist()


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from(["", "x"])), max_size=30), st.integers(1, 9))
def test_of_equal_rows_all_but_one_repeat_it(tmp_path_factory, pairs, part):
    """The first with a label, else the first; however few are looked at together."""
    rows = [{"text": text} | ({"label": label} if label else {}) for text, label in pairs]
    folder = tmp_path_factory.mktemp("duplicates")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(duplicates, "PART", part)
        exact, _ = found(folder, rows, near=None)
    for number, (text, _) in enumerate(pairs):
        same = [n for n, (other, _) in enumerate(pairs) if other == text]
        kept = next((n for n in same if pairs[n][1]), same[0])
        assert exact[number] == (-1 if number == kept else kept)


@given(st.integers(1, 60), st.integers(0, 60))
def test_rows_that_are_added_do_not_displace_others(tmp_path_factory, count, more):
    """Of labelled rows the earlier is kept, so a longer source keeps what a shorter one kept."""
    draw = np.random.default_rng(count)
    bases = sentences(draw, 8, 20)
    rows = [{"text": f"{bases[draw.integers(8)]} {draw.integers(5)}", "label": "x"} for _ in range(count + more)]
    folders = [tmp_path_factory.mktemp("duplicates") for _ in range(2)]
    few, many = found(folders[0], rows[:count]), found(folders[1], rows)
    assert [many[kind][:count] for kind in (0, 1)] == list(few)


def test_near_duplicates_are_found_and_no_kept_rows_are_similar(tmp_path):
    """Among random texts each planted copy with a changed word is found; of those kept, none is like another."""
    draw = np.random.default_rng(2)
    texts = sentences(draw, 60, 60)
    copies = [text.rsplit(" ", 1)[0] + " changed" for text in texts[:20]]
    rows = [{"text": text} for text in texts + copies]
    exact, near = found(tmp_path / "work", rows)
    assert exact == [-1] * 80
    assert near == [-1] * 60 + list(range(20))


def test_chinese_texts_are_compared_like_others(tmp_path):
    """Runs of characters, not words."""
    first = "距离川沙公路较近但是公交指示不对如果是蔡陆线的话会非常麻烦建议用别的路线房间较为简单早餐也不错"
    rows = [
        {"text": first},
        {"text": first.replace("简单", "干净")},
        {"text": "商务大床房房间很大床有2M宽整体感觉经济实惠不错"},
    ]
    assert found(tmp_path / "work", rows, near=0.7) == ([-1, -1, -1], [-1, 0, -1])


def test_candidates_are_forgotten_once_they_are_looked_at(tmp_path, monkeypatch):
    """Texts that share bands by chance are many in a large data set; memory is that of one band's."""
    monkeypatch.setattr(duplicates, "PAIRS", 256)
    draw, rows = np.random.default_rng(0), 4_000
    prints = {"keys": draw.bytes(16 * rows), "order": bytes(rows), "texts": b"\1" * rows}
    prints["sketches"] = draw.bytes(2 * minhash.BINS * rows)
    prints |= {name: draw.integers(0, rows // 10, rows, np.uint64).tobytes() for name in duplicates.BANDS}
    found = Duplicates(tmp_path, near=0.8)
    found.add(prints)
    tracemalloc.start()
    of, _ = found.find()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert not (of >= 0).any()
    assert peak < 3e6, "all candidates are 25 times 7,200 pairs: 3 MB at 16 bytes each, and more to sort them"
