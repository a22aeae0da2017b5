"""Replaces personal data in texts by placeholders. The patterns miss some, and match some text that is none."""

from __future__ import annotations

import ipaddress
import re

# Each takes time in proportion to the text, whatever the text is: what may repeat before the part that decides is
# bounded, or cannot begin anew within itself.
PATTERNS = {
    "email": re.compile(r"\b[A-Za-z0-9._%+-]{1,254}+@[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)*\.[A-Za-z]{2,}\b"),
    "phone": re.compile(
        r"(?<![\w.+-])(?:\+\d{7,15}|(?:\+\d{1,3}[ .-]?)?(?:\(\d{1,5}\)[ .-]?)?\d{2,8}(?:[ .-]\d{2,8}){1,4})"
        r"(?![\w-]|\.\d)"
    ),
    "ip": re.compile(
        r"(?<![\w.:])(?:\d{1,3}(?:\.\d{1,3}){3}|[0-9A-Fa-f]{0,4}(?::[0-9A-Fa-f]{0,4}){2,7})(?![\w:]|\.\d)"
    ),
    "key": re.compile(
        r"-----BEGIN [A-Z ]*PRIVATE KEY-----[^-]*+(?:-(?!----)[^-]*+)*+-----END [A-Z ]*PRIVATE KEY-----"
        r"|\b(?:AKIA|ASIA)[A-Z0-9]{16}\b|\bgh[pousr]_[A-Za-z0-9]{36,}\b|\bsk-[A-Za-z0-9_-]{20,}\b"
        r"|\bxox[abprs]-[A-Za-z0-9-]{10,}\b|\beyJ[\w-]{10,1000}+\.[\w-]{10,}+\.[\w-]{10,}"
    ),
}
DIGITS = range(7, 16)  # of a phone number (ITU-T E.164: at most 15)


def replace(text: str, kind: str) -> tuple[str, int]:
    """The text with each match replaced by `<EMAIL>`, `<PHONE>`, `<IP>` or `<KEY>`, and the number of replacements."""
    count = 0

    def placeholder(match: re.Match[str]) -> str:
        nonlocal count
        if not _is_valid(match.group(), kind):
            return match.group()
        count += 1
        return f"<{kind.upper()}>"

    return PATTERNS[kind].sub(placeholder, text), count


def _is_valid(candidate: str, kind: str) -> bool:
    if kind == "phone":
        return sum(character.isdigit() for character in candidate) in DIGITS and not _is_date(candidate)
    if kind == "ip":
        try:
            address = ipaddress.ip_address(candidate)
        except ValueError:
            return False
        return str(address) != "::"
    return True


def _is_date(text: str) -> bool:
    return bool(re.fullmatch(r"\d{4}[ .-]\d{1,2}[ .-]\d{1,2}|\d{1,2}[ .-]\d{1,2}[ .-]\d{4}", text))
