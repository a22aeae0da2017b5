"""What the lock files bring: known vulnerabilities, a bill of materials, licences.

`audit` asks an advisory service (PyPI's, else OSV) through pip-audit and ends with exit code 1 if it knows of a
vulnerability. Where no service answers it says that nothing was audited. `sbom` writes dist/sbom.cdx.json (CycloneDX).
`licences` writes docs/licences.md from the metadata of what is installed.
"""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
LOCKS = ("requirements.lock", "requirements-dev.lock")
SERVICES = ("pypi", "osv")
AUDIT, SBOM = ("pip-audit==2.10.1", "pip-audit"), ("cyclonedx-bom==7.5.0", "cyclonedx-py")
PAGE = ROOT / "docs" / "licences.md"
HEAD = """# Licences

Of the packages that `requirements.lock` names, as their metadata state them; `make licences` writes this page. Pretune itself is under Apache-2.0.

| package | licence |
|---|---|
"""  # noqa: E501
ELSEWHERE = "not on the machine that wrote this page"
SHORT = 60  # characters: a longer field is the text of the licence


def tool(package: tuple[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a program of a package in an environment of its own."""
    uv = [sys.executable, str(ROOT / "scripts" / "uv.py"), "tool", "run", "--from", *package]
    return subprocess.run([*uv, *arguments], cwd=ROOT, capture_output=True, text=True, check=False)


def verdict(report: dict[str, Any] | None) -> tuple[int, list[str]]:
    """The exit code and lines for a report of pip-audit, None if there is none."""
    packages = report["dependencies"] if report else []
    skipped = [package["name"] for package in packages if "skip_reason" in package]
    found = [
        f"{package['name']} {package['version']}: {flaw['id']}, fixed in {', '.join(flaw['fix_versions']) or 'none'}"
        for package in packages
        for flaw in package.get("vulns", [])
    ]
    if len(skipped) == len(packages):
        return 0, ["NOT AUDITED: no advisory service answers here, so nothing is known of any package"]
    lines = [f"{len(packages) - len(skipped)} packages audited, {len(found)} known vulnerabilities", *found]
    return int(bool(found)), lines + ([f"not audited: {', '.join(skipped)}"] if skipped else [])


def audit() -> int:
    """Print what is known of the packages of both lock files."""
    locks = [argument for lock in LOCKS for argument in ("--requirement", lock)]
    code, lines = verdict(None)
    for service in SERVICES:
        options = ("--no-deps", "--disable-pip", "--format", "json", "--vulnerability-service", service)
        done = tool(AUDIT, *locks, *options)
        try:
            code, lines = verdict(json.loads(done.stdout))
        except ValueError:  # no report: the service did not answer
            continue
        if not lines[0].startswith("NOT AUDITED"):
            break
    print("\n".join(lines))
    return code


def sbom() -> int:
    """Write the bill of materials of requirements.lock, the same bytes for the same lock."""
    target = ROOT / "dist" / "sbom.cdx.json"
    target.parent.mkdir(exist_ok=True)
    options = ("--pyproject", "pyproject.toml", "--output-reproducible", "--output-file", str(target))
    done = tool(SBOM, "requirements", "requirements.lock", *options)
    print(f"{target.relative_to(ROOT)}" if not done.returncode else done.stderr, end="\n")
    return done.returncode


def locked() -> list[str]:
    """The names in requirements.lock."""
    lines = (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
    return sorted({canonicalize_name(Requirement(line).name) for line in lines if line.strip() and line[0] != "#"})


def licence(name: str) -> str:
    """The licence of an installed package by its metadata."""
    about = metadata.metadata(name)
    trove = [c.rpartition(" :: ")[2] for c in about.get_all("Classifier") or [] if c.startswith("License :: OSI")]
    field = (about.get("License") or "").strip()
    short = field if field and "\n" not in field and len(field) <= SHORT else ""
    return about.get("License-Expression") or short or ", ".join(trove) or "see the package"


def listed() -> dict[str, str]:
    """{package: licence} on the page as it is."""
    lines = PAGE.read_text(encoding="utf-8").splitlines() if PAGE.is_file() else []
    cells = [line.strip("| ").split(" | ") for line in lines if line.startswith("| ")]
    return {row[0]: row[1] for row in cells if len(row) == 2}


def licences() -> int:
    """Write the page; of packages for other machines it keeps what another machine wrote."""
    before, rows = listed(), []
    for name in locked():
        try:
            found = licence(name)
        except metadata.PackageNotFoundError:
            found = before.get(name, ELSEWHERE)
        rows.append(f"| {name} | {found.replace('|', '/')} |\n")
    PAGE.write_text(HEAD + "".join(rows), encoding="utf-8")
    return 0


COMMANDS = {"audit": audit, "sbom": sbom, "licences": licences}

if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1] not in COMMANDS:
        sys.exit(f"usage: python scripts/packages.py {'|'.join(COMMANDS)}")
    sys.exit(COMMANDS[sys.argv[1]]())
