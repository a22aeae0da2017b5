from __future__ import annotations

import importlib.util
import re
import tomllib
from pathlib import Path

import pytest
import typer
from pydantic import BaseModel

from pretune.config.params import Params

SPEC = importlib.util.spec_from_file_location("documents", Path(__file__).parent / "documents.py")
documents = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(documents)

ROOT = documents.ROOT
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
DECISIONS = sorted((ROOT / "docs" / "decisions").glob("[0-9]*.md"))
PRESENT = [path for path in PAGES if path not in {*DECISIONS, ROOT / "CHANGELOG.md"}]  # the others are history
CHECKS = ["paths", "trees", "modules", "functions", "settings", "blocks", "commands", "messages"]


def name_of(path):
    """A path as the repository has it."""
    return path.relative_to(ROOT).as_posix()


def problems(check, document):
    """What a check of documents.py finds."""
    return list(getattr(documents, check)(document))


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_every_link_leads_somewhere(path):
    """Relative links and images name a file that exists, and a heading in it."""
    assert problems("links", documents.page(path)) == []


@pytest.mark.parametrize("path", PRESENT, ids=name_of)
@pytest.mark.parametrize("check", CHECKS)
def test_what_a_page_names_exists(check, path):
    """Paths, functions, settings, commands and messages are those of the code; blocks of code parse."""
    assert problems(check, documents.page(path)) == []


@pytest.mark.parametrize(
    ("check", "text", "problem"),
    [
        ("links", "[x](docs/nothing.md)", "no such file"),
        ("links", "[x](docs/params.md#nothing)", "no such heading"),
        ("links", '<img src="docs/nothing.svg">', "no such file"),
        ("paths", "`pretune/nothing.py`", "no such file"),
        ("paths", "`data/raw/source.txt`", "no such file"),
        ("paths", "`choice.py`", "no such file"),
        ("paths", "`tests/contracts/test_documents.py::test_nothing_of_the" + "_kind`", "no such file"),
        ("trees", "```tree\ncli/\n  nothing.py  what it is\n```", "cli/nothing.py"),
        ("modules", "`pretune.nothing.more`", "no such module"),
        ("functions", "| `cli/run.py` | `walk` |", "does not define"),
        ("settings", "`pretrain.nothing`", "no such key"),
        ("settings", "`clean.nothing`", "no such key"),
        ("settings", "`skips: 3`", "no such key"),
        ("settings", "`accumulation`", "no such key"),
        ("settings", "`stages.nothing.deps`", "no such key"),
        ("settings", "```yaml\npretrain:\n  skips: 3\n```", "pretrain.skips"),
        ("blocks", "```python\ndef\n```", "python"),
        ("blocks", "```yaml\na: [\n```", "yaml"),
        ("commands", "`pretune nothing`", "no command"),
        ("commands", "    pretune run --nothing", "--nothing"),
        ("commands", "`pretune run --set model.hidden_size=8192`", "no setting"),
        ("commands", "```sh\nX=1 pretune run nothing && make run\n```", "no stage"),
        ("commands", "```console\n$ make nothing\n```", "no target"),
        ("commands", "`python -m tasks nothing`", "no stage"),
        ("commands", "`python -m nothing_of_the_kind`", "no module"),
        ("commands", "`python benchmarks/nothing.py`", "no file"),
        ("commands", "`python benchmarks/train.py --nothing`", "has no --nothing"),
        ("commands", "```sh\ndvc nothing\n```", "dvc"),
        ("commands", "```sh\nnothing --at all\n```", "unknown program"),
        ("messages", "`error: nothing says this`", "no code prints it"),
        ("messages", "```text\nnext:  a command that nobody names\n```", "no code prints it"),
    ],
)
def test_each_check_finds_what_is_wrong(check, text, problem):
    """An invented mistake is found."""
    assert any(problem in found for found in problems(check, documents.Document(text)))


@pytest.mark.parametrize(
    "text",
    [
        "`pretune/config/params.py`, `data/raw/source.json`, `reports/curves/STAGE.csv`, `pretune.lineage.graph`",
        "`yaml`, `seed`, `model.config.hidden_size`, `patience: 3`, `clean.similarity`, `stages.ingest.deps`",
        "```sh\nA=1 pretune run finetune --set seed=1 > out.json   # remark\nmake run TORCH=cpu && git status\n```",
        "`pretune compare RUN RUN`, `pretune …`, `python -m tasks STAGE`, `dvc repro --force`, `make TARGET`",
        "`error: finetune: data/raw is missing`, `next:  pretune run prepare   (makes what it needs)`",
        "`error: … is already running…`",
    ],
)
def test_no_check_finds_fault_with_what_is_right(text):
    """Names that exist, and placeholders, are passed."""
    assert [problem for check in ["links", *CHECKS] for problem in problems(check, documents.Document(text))] == []


def test_the_chinese_readme_follows_the_english_one():
    """README.zh.md has the sections, commands, links, inline code and figures of README.md."""

    def content(name, other, tutorial):
        document = documents.page(ROOT / name)
        return {
            "headings": re.findall(r"^#+ ", document.text, re.MULTILINE),
            "commands": [re.sub(r"\s+#.*", "", line) for line, _ in document.commands()],
            "trees": [re.findall(r"^ *\S+", block, re.MULTILINE) for info, block in document.blocks if info == "tree"],
            "output": [block for info, block in document.blocks if info == "text"],
            "links": sorted({*document.links} - {other, tutorial}),
            "code": sorted(document.codes),
            "figures": sorted({*re.findall(r"\d+(?:[.,]\d+)*", document.text)}),
        }

    english = content("README.md", "README.zh.md", "docs/tutorial.md")
    assert content("README.zh.md", "README.md", "docs/zh/tutorial.md") == english


def test_the_reference_lists_every_setting():
    """The tables of docs/params.md have a line for each key of the schema."""

    def keys(model, prefix=""):
        for name, field in model.model_fields.items():
            nested = isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
            yield from keys(field.annotation, f"{prefix}{name}.") if nested else [f"{prefix}{name}"]

    section, listed = "", set()
    for line in documents.read("docs/params.md").splitlines():
        section = line.removeprefix("## ") if line.startswith("## ") else section
        if line.startswith("| `"):
            for name in re.findall(r"`([a-z_.]+)`", line.split(" | ")[0]):
                listed |= {name, *(f"{part}.{name}" for part in section.split(" and "))}
    assert set(keys(Params)) - listed == set()


def test_the_reference_names_every_command():
    """docs/cli.md shows each command."""
    from cli.app import app

    text = documents.read("docs/cli.md")
    assert [name for name in typer.main.get_command(app).commands if f"pretune {name}" not in text] == []


def test_the_picture_has_every_layer():
    """docs/images/layers.svg lists the layers of pyproject.toml, in their order."""
    contracts = tomllib.loads(documents.read("pyproject.toml"))["tool"]["importlinter"]["contracts"]
    by_name = {contract["name"]: contract.get("layers") for contract in contracts}
    layers = by_name["imports go one way: cli, flows, tasks, pretune"] + by_name["within pretune, from the top"]
    drawn = re.findall(r'font-weight="bold" fill="#0f172a">(\w+)/?<', documents.read("docs/images/layers.svg"))
    assert drawn == layers


def test_decisions_are_numbered_without_gaps():
    """File and heading have the number, and docs/decisions/index.md lists each."""
    listed = documents.page(ROOT / "docs" / "decisions" / "index.md").links
    assert [int(path.name[:4]) for path in DECISIONS] == list(range(1, len(DECISIONS) + 1))
    for number, path in enumerate(DECISIONS, start=1):
        assert path.read_text(encoding="utf-8").startswith(f"# {number}. "), path.name
        assert path.name in listed


@pytest.mark.parametrize("path", DECISIONS, ids=name_of)
def test_a_superseded_decision_leads_to_its_successor(path):
    """It says so below its heading, with links to later decisions, which link back."""
    mark = next((line for line in path.read_text(encoding="utf-8").splitlines()[1:4] if "uperseded by" in line), "")
    successors = re.findall(r"\]\((\d{4}-[\w-]+\.md)\)", mark)
    assert bool(mark) == bool(successors)
    for name in successors:
        assert name > path.name
        assert path.name in documents.page(path.parent / name).links, f"{name} does not link to {path.name}"
