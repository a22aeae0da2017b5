from __future__ import annotations

import re
import subprocess
from importlib import metadata

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

# Written so that this file does not hold what it forbids.
FORBIDDEN = {
    "a folder beside the repository": r"\.\./sha[r]ed\b",
    "a path of one machine": r"(?<![\w.~<-])/(?:wor[k]|roo[t]|hom[e]/\w+|User[s]/\w+)(?=/|$|[\s\"'`)])",
    "the host of a package index": r"\b(?:pyp[i]|pythonhos[t]ed|download\.pytor[c]h)\.org\b|/simpl[e]/?(?=[\s\"']|$)",
    "credentials in an address": r"https?://[^\s/@\"']+:[^\s/@\"']+@",
}
CUDA = ("nvidia-", "cuda-", "triton")
NOT_LOCKED = {"pip", "pretune"}


@pytest.fixture(scope="module")
def tracked_files(root):
    """{path: text} of every text file that git tracks, or would once it is added."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, cwd=root, capture_output=True, check=True).stdout.decode().split("\0")
    contents = {name: (root / name).read_bytes() for name in sorted(set(names)) if name and (root / name).is_file()}
    return {name: content.decode("utf-8", "replace") for name, content in contents.items() if b"\0" not in content}


def requirements(path):
    """Those of a lock file."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return [Requirement(line) for line in lines if line.strip() and not line.startswith("#")]


@pytest.fixture(scope="module")
def locked(root):
    """What tests are run with."""
    return requirements(root / "requirements-dev.lock")


@pytest.mark.parametrize("what", FORBIDDEN)
def test_no_file_names(tracked_files, what):
    """What holds on one machine only has no place in a file of the repository."""
    pattern = re.compile(FORBIDDEN[what], re.MULTILINE)
    found = [
        f"{name}:{text.count(chr(10), 0, match.start()) + 1}: {match.group()}"
        for name, text in tracked_files.items()
        for match in pattern.finditer(text)
    ]
    assert found == []


@pytest.mark.parametrize(
    ("what", "example"),
    [
        ("a folder beside the repository", "see ../" + "shared/x.md"),
        ("a path of one machine", "open /" + "work/main/x"),
        ("a path of one machine", "in '/" + "root/.cache'"),
        ("a path of one machine", "cd /" + "home/somebody"),
        ("the host of a package index", "https://pypi" + ".org/x"),
        ("the host of a package index", "https://mirror.example/sim" + "ple"),
        ("credentials in an address", "https://me:" + "secret@example.org"),
    ],
)
def test_the_patterns_find_what_they_forbid(what, example):
    """Each pattern matches an example of its kind."""
    assert re.search(FORBIDDEN[what], example)


def test_every_pin_is_exact(locked):
    """The lock file names one version of each package, and no address."""
    for requirement in locked:
        (only,) = requirement.specifier
        assert only.operator == "==", requirement.name
        assert requirement.url is None, requirement.name


def test_the_lock_holds_everything_that_is_installed(locked):
    """An environment made from the lock alone is this one: every distribution is pinned at its version."""
    pins = {canonicalize_name(r.name): r for r in locked if r.marker is None or r.marker.evaluate()}
    wrong = []
    for distribution in metadata.distributions():
        name = canonicalize_name(distribution.metadata["Name"])
        if name in NOT_LOCKED or name.startswith(CUDA):
            continue
        if name not in pins or not pins[name].specifier.contains(distribution.version, prereleases=True):
            wrong.append(f"{name} {distribution.version}: the lock has {pins.get(name)}")
    assert wrong == []


def test_everything_in_the_lock_is_installed(locked):
    """Nothing is pinned that the environment does without."""
    installed = {canonicalize_name(d.metadata["Name"]) for d in metadata.distributions()}
    missing = [
        r.name
        for r in locked
        if (r.marker is None or r.marker.evaluate()) and canonicalize_name(r.name) not in installed
    ]
    assert missing == []


def test_what_pyproject_asks_for_is_in_the_lock(root, locked):
    """Each direct dependency is pinned within its range."""
    import tomllib

    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    pins = {canonicalize_name(r.name): next(iter(r.specifier)).version for r in locked}
    extras = [line for lines in project["optional-dependencies"].values() for line in lines]
    for line in [*project["dependencies"], *extras]:
        wanted = Requirement(line)
        assert wanted.specifier.contains(pins[canonicalize_name(wanted.name)], prereleases=True), line


def test_the_pipeline_is_run_with_what_was_tested(root, locked):
    """requirements.lock is part of requirements-dev.lock, at the same versions, and holds all dependencies."""
    import tomllib

    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    pins = {canonicalize_name(r.name): r.specifier for r in locked}
    own = {canonicalize_name(r.name): r.specifier for r in requirements(root / "requirements.lock")}
    assert own.items() <= pins.items()
    assert {canonicalize_name(Requirement(line).name) for line in project["dependencies"]} <= own.keys()
    assert len(own) < len(pins) - 20


def test_only_one_package_imports_each_tool(root):
    """Only pretune/lineage imports dvc, only pretune/tracking mlflow, only flows prefect."""
    allowed = {"dvc": "pretune/lineage/", "mlflow": "pretune/tracking/", "prefect": "flows/"}
    for package in ("cli", "flows", "tasks", "pretune"):
        for path in (root / package).rglob("*.py"):
            name, text = path.relative_to(root).as_posix(), path.read_text(encoding="utf-8")
            for tool, folder in allowed.items():
                if re.search(rf"^\s*(?:import|from) {tool}\b", text, re.MULTILINE):
                    assert name.startswith(folder), f"{name} imports {tool}"


def test_planted_faults_name_code_and_tests_that_exist(root):
    """Each row of tests/mutations.md: a file, a function in it where one is named, and a test."""
    rows = re.findall(
        r"^\|[^|]*\| `([^`]+)`(?:, `(\w+)`)?[^|]*\| `([^`]+)::(\w+)` \|$",
        (root / "tests/mutations.md").read_text(encoding="utf-8"),
        re.MULTILINE,
    )
    assert len(rows) > 20
    missing = [
        row
        for row in rows
        if not re.search(rf"\b{row[1]}\b", (root / row[0]).read_text(encoding="utf-8"))
        or f"def {row[3]}(" not in (root / "tests" / row[2]).read_text(encoding="utf-8")
    ]
    assert not missing
