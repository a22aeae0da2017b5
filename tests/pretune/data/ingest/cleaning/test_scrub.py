from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pretune.data.ingest import values
from pretune.data.ingest.cleaning import quality, scrub

MATCHES = {
    "email": ["jane.doe+x@mail.example.org", "A_1@b-c.co"],
    "phone": ["+49 30 1234567", "(030) 123 45 67", "555-123-4567", "+4930123456"],
    "ip": ["192.168.0.1", "2001:db8::1", "fe80::a:b"],
    "key": [
        "eyJ" + ".".join(["a1_" * 5] * 3),
        "AKIA" + "A1" * 8,
        "ghp_" + "a1" * 18,
        "-----BEGIN PRIVATE KEY-----\nx\n-----END PRIVATE KEY-----",
    ],
}
LOOK_ALIKES = {
    "email": ["@decorator", "a@b", "2 @ 3"],
    "phone": ["2024-12-31", "31.12.2024", "12 34", "1.234567", "3.14159265"],
    "ip": ["1.2.3", "999.1.1.1", "::", "10:30:15 o'clock", "std::vector"],
    "key": ["AKIA", "sk-", "BEGIN"],
}


@pytest.mark.parametrize(("kind", "example"), [(kind, text) for kind, texts in MATCHES.items() for text in texts])
def test_personal_data_are_replaced_by_their_kind(kind, example):
    """Once, and the rest of the sentence stays."""
    assert scrub.replace(f"it is {example}, yes", kind) == (f"it is <{kind.upper()}>, yes", 1)


@pytest.mark.parametrize(("kind", "example"), [(kind, text) for kind, texts in LOOK_ALIKES.items() for text in texts])
def test_text_that_only_looks_alike_stays(kind, example):
    """Dates, versions, decorators, C++."""
    assert scrub.replace(f"it is {example}, yes", kind) == (f"it is {example}, yes", 0)


@given(st.text(max_size=40), st.sampled_from(sorted(scrub.PATTERNS)))
def test_scrubbing_twice_is_scrubbing_once(text, kind):
    """A placeholder is not matched again."""
    once, _ = scrub.replace(text, kind)
    assert scrub.replace(once, kind) == (once, 0)


REPEATED = [
    "a.",
    "a@a.1.",
    "a.a@1.1.",
    "12 ",
    "+1 (1) ",
    "1.",
    "a:",
    "-----BEGIN PRIVATE KEY-----",
    "eyJ-",
    "eyJa.",
    "sk-",
]


@pytest.mark.parametrize("unit", REPEATED)
def test_no_text_takes_more_than_time_in_proportion(ends, unit):
    """What makes each pattern begin anew at every place: with backtracking it would take minutes, here milliseconds."""
    text = unit * (400_000 // len(unit))
    with ends():
        for kind in scrub.PATTERNS:
            scrub.replace(text, kind)


@pytest.mark.parametrize(
    "read", [lambda text: values.parsed(f"[{text}]"), quality.c4, lambda text: values.canonical(f"{text}.0")]
)
@pytest.mark.parametrize("unit", ["'\\", ".", "1", "[", "-"])
def test_values_and_sentences_take_time_in_proportion(ends, read, unit):
    """Lists in text, ends of sentences, whole numbers: none makes anything of 400,000 characters of one kind."""
    with ends():
        read(unit * 400_000 + "x")
