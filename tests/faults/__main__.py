"""`python -m tests.faults`: disturb parts of a run at every point, and say what came of it (`make test-faults`)."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path

from tests.end_to_end import conftest
from tests.faults import check, injector, parts, table, workspace
from tests.faults.check import Result
from tests.faults.server import MLflow

AT_ONCE = 2
MEMORY = Path("/dev/shm")
RESULTS = "faults.jsonl"  # in .pretune, or in the folder of --keep


Job = tuple[parts.Part, injector.Point, str]  # with the kind of fault


def main(arguments: list[str]) -> int:
    """Run the command line; 1 if something was not as it should be."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--only", action="append", choices=parts.ALL, help="this part (more than once: these)")
    parser.add_argument("--point", action="append", help="points whose name contains this (more than once: or that)")
    parser.add_argument("--kind", choices=["kill", *injector.CAUSES, "clock"], help="faults of this kind")
    parser.add_argument("--every", type=int, default=1, help="one fault of so many")
    parser.add_argument(
        "--resume", action="store_true", help="leave out what the last run, which was stopped, has done"
    )
    parser.add_argument("--keep", type=Path, help="a folder for the workspaces of faults that were mishandled")
    parser.add_argument("--write", action="store_true", help="write the table into docs/reliability.md")
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # so that the server ends, too
    conftest.TIMEOUT = workspace.LIMIT
    folder = options.keep or Path(tempfile.mkdtemp(prefix="pretune-faults-", dir=MEMORY if MEMORY.is_dir() else None))
    folder.mkdir(parents=True, exist_ok=True)
    wanted = set(options.only or parts.ALL)
    with ExitStack() as stack:
        if not options.keep:
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
        server = stack.enter_context(closing(MLflow(folder / "server"))) if parts.SENDER in wanted else None
        results = list(disturb(options, folder.resolve(), wanted, server))
    print(table.table(results))
    if options.write:
        table.write(results)
    return int(any(result.problems for result in results))


def disturb(options: argparse.Namespace, folder: Path, wanted: set[str], server: MLflow | None) -> Iterator[Result]:
    """Make the parts, then disturb them, two at once; tell what comes of it."""
    os.environ["LD_PRELOAD"] = os.environ["FAULTS_LIBRARY"] = str(injector.build(folder))
    path = (options.keep or conftest.PROJECT / ".pretune") / RESULTS
    done = {result.key: result for result in read(path)} if options.resume else {}
    jobs: list[Job] = []
    for part in parts.make(folder, wanted, server):
        parts.record(part, folder / f"{part.name}-reference")
        jobs += [(part, *fault) for fault in injector.faults(injector.selected(part.points))]
    jobs = [job for job in jobs if is_wanted(job, options)][:: options.every]
    yield from (done[key(job)] for job in jobs if key(job) in done)
    jobs = [job for job in jobs if key(job) not in done]
    path.parent.mkdir(exist_ok=True)
    with ThreadPoolExecutor(AT_ONCE) as pool, path.open("a" if options.resume else "w", encoding="utf-8") as file:
        running = pool.map(lambda job: check.disturb(*job[1], folder / f"fault-{job[0]}"), enumerate(jobs))
        for number, result in enumerate(running, start=1):
            tell(f"{number}/{len(jobs)}", result)
            file.write(json.dumps(vars(result)) + "\n")
            file.flush()
            yield result


def key(job: Job) -> tuple[str, str, str]:
    """What identifies a fault and its result."""
    part, point, kind = job
    return part.name, str(point), kind


def is_wanted(job: Job, options: argparse.Namespace) -> bool:
    """Whether the command line asks for a fault."""
    _, point, kind = job
    return options.kind in {None, kind} and any(words in str(point) for words in options.point or [""])


def tell(number: str, result: Result) -> None:
    """Print what came of a fault."""
    state = "MISHANDLED" if result.problems else "ok" if result.reached else "not reached"
    print(f"{number} {state}  {result.part}: {result.kind} at {result.point} (exit code {result.code})", flush=True)
    for problem in result.problems:
        print(f"    {problem}", flush=True)


def read(path: Path) -> list[Result]:
    """The results in a file."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return [Result(**json.loads(line)) for line in lines]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
