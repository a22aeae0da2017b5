from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pretune.data.ingest.cleaning import scrub

FOUND = {
    "email": ["jane.doe+x@mail.example.org", "A_1@b-c.co"],
    "phone": ["+49 30 1234567", "(030) 123 45 67", "555-123-4567", "+4930123456"],
    "ip": ["192.168.0.1", "2001:db8::1", "fe80::a:b"],
    "key": ["AKIA" + "A1" * 8, "ghp_" + "a1" * 18, "-----BEGIN PRIVATE KEY-----\nx\n-----END PRIVATE KEY-----"],
}
PASSED_OVER = {
    "email": ["@decorator", "a@b", "2 @ 3"],
    "phone": ["2024-12-31", "31.12.2024", "12 34", "1.234567", "3.14159265"],
    "ip": ["1.2.3", "999.1.1.1", "::", "10:30:15 o'clock", "std::vector"],
    "key": ["AKIA", "sk-", "BEGIN"],
}


@pytest.mark.parametrize(("kind", "example"), [(kind, each) for kind, found in FOUND.items() for each in found])
def test_what_is_personal_is_replaced_by_its_kind(kind, example):
    """Once, with nothing else of the sentence touched."""
    assert scrub.replace(f"it is {example}, yes", kind) == (f"it is <{kind.upper()}>, yes", 1)


@pytest.mark.parametrize(("kind", "example"), [(kind, each) for kind, found in PASSED_OVER.items() for each in found])
def test_what_only_looks_alike_stays(kind, example):
    """Dates, versions, decorators, C++."""
    assert scrub.replace(f"it is {example}, yes", kind) == (f"it is {example}, yes", 0)


@given(st.text(max_size=40), st.sampled_from(sorted(scrub.PATTERNS)))
def test_scrubbing_twice_is_scrubbing_once(text, kind):
    """What stands for a find is none itself."""
    once, _ = scrub.replace(text, kind)
    assert scrub.replace(once, kind) == (once, 0)
