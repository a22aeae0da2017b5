from __future__ import annotations

import shutil
import subprocess

import pytest

from pretune.lineage import provenance


def test_the_tags_name_commit_machine_and_versions(project):
    """Which code, on what, with which libraries: all of it is there and is text."""
    found = provenance.tags(project)
    assert len(found["git.commit"]) == 40
    assert found["git.dirty"] == "false"
    assert found["version.mlflow"].startswith("3.")
    assert all(isinstance(value, str) and value for value in found.values())


def test_an_edit_makes_the_commit_dirty_but_a_result_does_not(project):
    """dvc.lock changes with every run; that says nothing about the code."""
    (project / "dvc.lock").write_text("schema: '2.0'\n", encoding="utf-8")
    assert provenance.tags(project)["git.dirty"] == "false"
    (project / "dvc.yaml").write_text("stages: {}\n", encoding="utf-8")
    assert provenance.tags(project)["git.dirty"] == "true"


def test_the_patch_leads_from_the_commit_to_the_files(project, tmp_path):
    """Applied to a clean clone, it gives the edited, the new, the removed and the binary file."""
    (project / "dvc.yaml").write_text("stages: {}\n", encoding="utf-8")
    (project / "pretune" / "helper.py").unlink()
    (project / "new ü.py").write_text("NEW = 'ü'\n", encoding="utf-8")
    (project / "image.bin").write_bytes(bytes(range(256)))
    index = (project / ".git" / "index").read_bytes()
    patch = provenance.patch(project)
    assert (project / ".git" / "index").read_bytes() == index
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "--quiet", project, clone], check=True)
    subprocess.run(["git", "apply", "--allow-empty"], cwd=clone, input=patch.encode(), check=True)
    assert (clone / "dvc.yaml").read_text(encoding="utf-8") == "stages: {}\n"
    assert (clone / "new ü.py").read_text(encoding="utf-8") == "NEW = 'ü'\n"
    assert (clone / "image.bin").read_bytes() == bytes(range(256))
    assert not (clone / "pretune" / "helper.py").exists()


@pytest.mark.parametrize(
    ("name", "content", "kind"),
    [
        (".env", "COLOUR=red\n", "its name"),
        ("keys/id_rsa", "x\n", "its name"),
        ("notes.py", "-----BEGIN OPENSSH " + "PRIVATE KEY-----\n", "a private key"),
        ("pretune/helper.py", "KEY = 'AKIA" + "A1" * 8 + "'\n", "a key of AWS"),
        ("ü b.py", "TOKEN = 'hf_" + "a1" * 17 + "'\n", "a token of Hugging Face"),
        ("notes.md", "postgresql://me:" + "salt-and-waves@example.org/x\n", "an address with a password"),
    ],
)
def test_what_looks_like_a_secret_is_left_out_with_a_warning(project, name, content, kind):
    """New or changed, by name or content; all other files are in the patch, and the rest can be applied."""
    (project / name).parent.mkdir(exist_ok=True)
    (project / name).write_text(content, encoding="utf-8")
    (project / "new.py").write_text("NEW = 1\n", encoding="utf-8")
    patch = provenance.patch(project)
    assert content not in patch
    assert f"# left out, looks like a secret ({kind}): {name}\n" in patch
    assert "+NEW = 1" in patch
    (warning,) = provenance.warnings(patch)
    assert kind in warning
    assert name in warning


@pytest.mark.parametrize(
    ("name", "content"),
    [
        (".env.example", "KEY=\n"),
        ("a.py", "risk-assessment-of-the-whole-thing sk-learn hf_hub_download\n"),
        ("b.md", "https://" + "USER:${PASSWORD}@example.org http://127.0.0.1:5000/x@y AKIA\n"),
        ("dvc.yaml", "md5: 0123456789abcdef0123456789abcdef\n"),
    ],
)
def test_what_only_resembles_a_secret_stays(project, name, content):
    """Hashes, words, examples with a variable: a record without them could not be made again."""
    (project / name).write_text(content, encoding="utf-8")
    assert provenance.warnings(provenance.patch(project)) == []


def test_a_clean_workspace_has_no_patch(project):
    """Nothing changed: nothing to keep."""
    assert provenance.patch(project) == ""


def test_without_a_commit_the_patch_holds_all_files(project):
    """Staged or not, what is in no commit is new; what was staged and removed is not there."""
    shutil.rmtree(project / ".git")
    subprocess.run(["git", "init", "--quiet"], cwd=project, check=True)
    (project / "gone.py").write_text("GONE = 1\n", encoding="utf-8")
    subprocess.run(["git", "add", "--all"], cwd=project, check=True)
    (project / "gone.py").unlink()
    (project / "new.py").write_text("NEW = 1\n", encoding="utf-8")
    patch = provenance.patch(project)
    assert all(f"+++ b/{name}" in patch for name in ("dvc.yaml", "new.py"))
    assert "gone.py" not in patch


@pytest.mark.parametrize("gone", [".git", ".git/HEAD"])
def test_without_git_the_commit_is_none(project, gone):
    """No repository, or a broken one: the run is recorded all the same."""
    path = project / gone
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert provenance.commit(project) == "none"
    assert provenance.tags(project)["git.dirty"] == "true"
    assert provenance.patch(project) == ""
