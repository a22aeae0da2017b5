"""Files that look like secrets: by their names, and by what services write at the beginning of their keys.

The names are those that GitHub's template for `.gitignore` and gitleaks list; the prefixes those of each service's
own documentation, as gitleaks (its config/gitleaks.toml) collects them. Only what is hardly ever anything else: a long
random text may be a hash.
"""

from __future__ import annotations

import re
from fnmatch import fnmatch
from pathlib import PurePosixPath

NAMES = (
    ".env", ".env.*", "*.pem", "*.key", "*.p12", "*.pfx", "*.jks", "*.keystore", "*.kdbx", "id_rsa", "id_dsa",
    "id_ecdsa", "id_ed25519", ".netrc", "_netrc", ".pgpass", ".htpasswd", ".pypirc", ".npmrc", ".git-credentials",
    "credentials", "credentials.json", "service-account*.json", "kubeconfig",
)  # fmt: skip
EXAMPLES = (".env.example", ".env.sample", ".env.template")
KEYS = {
    "a private key": r"-----BEGIN [A-Z ]{0,40}PRIVATE KEY",
    "a key of AWS": r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b",
    "a token of GitHub": r"\b(?:gh[pousr]_[A-Za-z0-9]{36}|github_pat_[A-Za-z0-9_]{50})",
    "a token of GitLab": r"\bglpat-[A-Za-z0-9_-]{20}",
    "a token of Hugging Face": r"\bhf_[A-Za-z0-9]{30}",
    "a key of OpenAI or Anthropic": r"\bsk-[A-Za-z0-9_-]{20}",
    "a key of Google": r"\bAIza[A-Za-z0-9_-]{35}",
    "a token of Slack": r"\bxox[abprs]-[A-Za-z0-9-]{10}",
    "a JSON web token": r"\beyJ[A-Za-z0-9_-]{10,1000}+\.eyJ[A-Za-z0-9_-]{10}",
    "an address with a password": r"://[^\s/:@\"'<>{}$]{1,100}+:[^\s/:@\"'<>{}$]{6,100}+@",
}


def found(name: str, content: str) -> str:
    """What of a file looks like a secret, "" if nothing does. content: the file, or a patch of it."""
    last = PurePosixPath(name).name
    if last not in EXAMPLES and any(fnmatch(last, pattern) for pattern in NAMES):
        return "its name"
    return next((kind for kind, key in KEYS.items() if re.search(key, content)), "")
