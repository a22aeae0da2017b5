"""Encodings are found from bytes: Unicode's by their form, others by what they read as."""

# ruff: noqa: RUF001 - letters of several scripts look alike
from __future__ import annotations

import pytest

from pretune.data.inspect.encoding import detect

TEXTS = {
    "cp1252": "Le café était très agréable, mais l’hôtel coûtait 120 € la nuit.\nDas Frühstück war köstlich.\n",
    "cp1250": "Bardzo dobry film, aktorzy grają świetnie, oglądałem go z przyjemnością.\n",
    "cp1254": "Çok güzel bir film, oyuncular harika, ışık ve şarkılar çok iyiydi.\n",
    "koi8_r": "Очень хороший фильм, актёры играют прекрасно, смотрел с удовольствием.\n",
    "cp1251": "Очень хороший фильм, актёры играют прекрасно, смотрел с удовольствием.\n",
    "cp1253": "Πολύ καλή ταινία, οι ηθοποιοί παίζουν υπέροχα και το σενάριο έχει ενδιαφέρον.\n",
    "gb18030": "酒店的服务非常好，房间干净整洁，早餐丰富，下次还会入住。\n",
    "big5": "酒店的服務非常好，房間乾淨整潔，早餐豐富，下次還會入住。\n",
    "shift_jis": "とても良い映画でした。俳優の演技が素晴らしく、最後まで楽しめました。\n",
    "euc_jp": "とても良い映画でした。俳優の演技が素晴らしく、最後まで楽しめました。\n",
    "cp949": "정말 재미있는 영화였습니다. 배우들의 연기가 훌륭하고 끝까지 즐길 수 있었습니다.\n",
    "utf-8": "a film – très bien\n",
    "utf-8-sig": "a plain film\n",
    "utf-16": "a plain film\n",
    "utf-16-le": "a plain film\n",
    "utf-16-be": "a plain film\n",
    "utf-32": "a plain film\n",
    "ascii": "a plain film\n",
}


@pytest.mark.parametrize("name", TEXTS)
def test_the_encoding_that_is_found_reads_the_text(name):
    """Real sentences among lines of plain ASCII come out as they were written."""
    text = "a plain line of a table\n" * 50 + TEXTS[name] * 5
    content = text.encode(name)
    found = detect(content)
    assert content.decode("utf-8-sig" if found.name == "utf-8" else found.name) == text
    assert found.sure


def test_a_character_that_the_sample_cuts_does_not_matter():
    """The bytes may end within one."""
    assert detect("très bien".encode()[:3]).name == "utf-8"


@pytest.mark.parametrize("shift", range(4))
def test_a_long_text_is_judged_by_whole_lines(shift):
    """Wherever the part that is looked at ends: half of a character would rule its encoding out."""
    text = "x" * shift + "商务大床房，房间很大，床有两米宽，整体感觉经济实惠不错！\n" * 3000
    assert detect(text.encode("gb18030")[:100_001]).name == "gb18030"


def test_few_invalid_bytes_leave_a_text_utf_8_with_a_doubt():
    """Their rows are bad; all the others are right."""
    found = detect(("très bien\n" * 100).encode() + b"tr\xe8s mal\n")
    assert (found.name, found.sure) == ("utf-8", False)


def test_bytes_of_no_encoding_are_a_doubt():
    """A fallback is named as such."""
    assert not detect(bytes(range(128, 256)) * 3).sure
