from __future__ import annotations

import pytest

from pretune.data.ingest.cleaning.quality import FAMILIES

GOOD = (
    "The harbour lay still in the morning, and the boats that had come in with the tide were tied to the wall.\n"
    "A woman walked along it with a dog; she stopped to look at the nets, which somebody was mending in the sun.\n"
    "Nobody spoke. It was one of those days that have nothing to do with what comes before them or after."
)
BAD = {
    "c4": {
        "Lorem ipsum dolor. Sit. Amet.": "lorem ipsum",
        "if (x) { y }. One. Two.": "a curly bracket",
        "Enable JavaScript. Now. Please.": "asks for JavaScript",
        "One sentence. Two.": "fewer than 3 sentences",
    },
    "gopher": {
        "too short": "2 words",
        "a " * 60: "words of 1.0 characters on average",
        GOOD.replace(" ", " # "): "words of 2.5 characters on average",
        GOOD.replace("the", "the...").replace("a", "a..."): "more than one # or … in ten words",
        "\n".join(f"- {line}" for line in GOOD.splitlines()): "nine lines in ten begin with a bullet",
        "word 12345 67890 " * 20: "a fifth of the words has no letter",
        "hello there friends " * 20: "fewer than 2 English stop words",
        f"{GOOD}\n" * 3: "three lines in ten are repeated",
        GOOD + " and of and of" * 20: "one run of 2 words makes up more than 20 %",
        GOOD.replace("\n", " ") + " " + GOOD.replace("\n", " "): "repeated runs of 5 words make up more than 15 %",
    },
    "fineweb": {
        "no end\nno end here\nnor here": "fewer than 12 % of the lines end as a sentence does",
        "It is said twice, word for word.\n" * 2: "more than 10 % of the characters stand in repeated lines",
        "Short.\nToo.\nThree.": "more than 67 % of the lines are shorter than 30 characters",
    },
}


@pytest.mark.parametrize("family", FAMILIES)
def test_prose_passes(family):
    """Three whole English sentences."""
    assert not FAMILIES[family](GOOD)


@pytest.mark.parametrize(
    ("family", "text", "reason"),
    [(family, text, reason) for family, reasons in BAD.items() for text, reason in reasons.items()],
)
def test_each_rule_has_its_reason(family, text, reason):
    """A text that breaks one rule gets the reason of that rule."""
    assert FAMILIES[family](text) == reason
