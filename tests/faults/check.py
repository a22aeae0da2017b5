"""One fault: the command that it hits, what a user does next, and what has to hold then."""

from __future__ import annotations

import dataclasses
import re
import shutil
import time
from pathlib import Path

from pretune import errors
from tests.end_to_end import conftest
from tests.faults import workspace
from tests.faults.injector import CAUSES, Point, environment
from tests.faults.parts import Part

CODES = {int(code) for code in re.findall(r"^\| (\d+)", errors.__doc__ or "", flags=re.MULTILINE)} | {130, 143}
DEFECT = 1
# What DVC had begun to copy, which it does not remove, and SQLite's journals, which belong to a database.
OTHERS = re.compile(r"/\.\*\.tmp$|clone/\.dvc/cache/.*\.tmp$|\.db-(wal|shm|journal)$")


@dataclasses.dataclass
class Result:
    """What came of a fault. calls: how many the part makes. code: of its command. problems: what should not be."""

    part: str
    point: str
    kind: str
    calls: int
    reached: bool = True
    code: int | str = 0
    problems: list[str] = dataclasses.field(default_factory=list)
    printed: str = ""
    seconds: float = 0.0

    @property
    def key(self) -> tuple[str, str, str]:
        """What identifies it."""
        return self.part, self.point, self.kind


def disturb(part: Part, point: Point, kind: str, folder: Path) -> Result:
    """Run the part with this fault in a copy of its template, then what a user does next, and compare."""
    began = time.monotonic()
    shutil.rmtree(folder, ignore_errors=True)
    clone = workspace.copy(part.template, folder)
    result = Result(part.name, str(point), kind, calls=len(part.points))
    faulty = environment(part.process, folder, point=point, kind=kind)
    before = {run.id for run in part.records(clone)}
    try:
        code, printed = part.run(clone, **faulty)
        result.reached = (folder / "fired").exists()
        if result.reached:
            result.code, result.printed = part.told(clone, code, printed)
            result.problems += failing(result)
            clone.wait_for_end()
            code, printed = part.again(clone)
            result.problems += [] if code == 0 else [f"the next run ended with {code}: {tail(printed)}"]
            result.problems += ["the next run ended with a traceback"] if "Traceback" in printed else []
            result.problems += compare(part, clone, before)
    except Exception as error:  # of any kind: it is told, and the others go on
        result.problems.append(f"{type(error).__name__}: {error}"[:2000])
    finally:
        clone.end_all()
    if not result.problems:
        shutil.rmtree(folder, ignore_errors=True)
        result.printed = ""
    result.seconds = round(time.monotonic() - began, 2)
    return result


def failing(result: Result) -> list[str]:
    """What is wrong with how the command ended that was hit."""
    if result.kind == "kill":
        return [] if result.code in {-9, 0} else [f"it was not killed, but ended with {result.code}"]
    problems = ["a traceback"] if "Traceback" in result.printed else []
    if result.code not in CODES - {DEFECT}:
        problems.append(f"exit code {result.code}")
    if result.code and not any(words in result.printed for words in CAUSES.get(result.kind, ("",))):
        problems.append(f"the message does not name the cause: {tail(result.printed)}")
    return problems


def compare(part: Part, clone: conftest.Clone, before: set[str]) -> list[str]:
    """What differs from what an undisturbed run leaves. before: runs that there were in MLflow."""
    wanted = part.reference
    found = part.observe(clone, before)
    new = [run for run in part.records(clone) if run.id not in before]
    problems = [
        f"{name} has other bytes"
        for name in sorted(wanted.hashes | found.hashes)
        if wanted.hashes.get(name) != found.hashes.get(name)
    ]
    wanted_files, files = ({name for name in all_.files if not OTHERS.search(name)} for all_ in (wanted, found))
    problems += [f"left over: {name}" for name in sorted(files - wanted_files)]
    problems += [f"missing: {name}" for name in sorted(wanted_files - files)]
    problems += [f"{name}: not in MLflow" for name in sorted(wanted.runs.keys() - found.runs.keys())]
    for name in sorted(wanted.runs.keys() & found.runs.keys()):
        named = [run for run in new if run.name == name]
        problems += [f"the record of {name} has other {text}" for text in differences(wanted.runs[name], named)]
    return problems + recorded_once(new)


def differences(wanted: workspace.Recorded, runs: list[workspace.Recorded]) -> list[str]:
    """What of the last of some runs is not as in another.

    Training that resumes records what comes after its checkpoint: the metrics of all its runs together are those of
    one, and none comes more often.
    """
    expected, found = wanted.content, runs[-1].content
    counts, names = expected["metrics"], {name for run in runs for name in run.content["metrics"]}
    if names == counts.keys() and all(number <= counts[name] for name, number in found["metrics"].items()):
        found = found | {"metrics": counts}
    return [f"{key}: {expected[key]} became {found[key]}"[:300] for key in expected if expected[key] != found[key]]


def recorded_once(runs: list[workspace.Recorded]) -> list[str]:
    """What is wrong with new runs in MLflow: each journal is one, and all have ended."""
    journals = [run.journal for run in runs]
    problems = [f"a record was sent {journals.count(j)} times" for j in sorted(set(journals)) if journals.count(j) > 1]
    problems += [
        f"{run.name} is {run.status} in MLflow" for run in runs if run.status not in {"FINISHED", "FAILED", "KILLED"}
    ]
    if runs and runs[-1].status != "FINISHED":
        problems.append(f"the last run is {runs[-1].status} in MLflow")
    return problems


def tail(text: str) -> str:
    """The end of what was printed."""
    return " / ".join(text.strip().splitlines()[-3:])[-400:]
