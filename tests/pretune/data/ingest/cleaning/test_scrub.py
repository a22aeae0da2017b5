from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pretune.data.ingest.cleaning import scrub

MATCHES = {
    "email": ["jane.doe+x@mail.example.org", "A_1@b-c.co"],
    "phone": ["+49 30 1234567", "(030) 123 45 67", "555-123-4567", "+4930123456"],
    "ip": ["192.168.0.1", "2001:db8::1", "fe80::a:b"],
    "key": ["AKIA" + "A1" * 8, "ghp_" + "a1" * 18, "-----BEGIN PRIVATE KEY-----\nx\n-----END PRIVATE KEY-----"],
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
