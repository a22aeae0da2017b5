"""From a model back to what made it, and from data forward to what was made of it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from pretune.errors import NotFoundInRecordsError, did_you_mean

if TYPE_CHECKING:
    from rich.tree import Tree

    from pretune.tracking import Record

Found = dict[str, Any]
SHORT = 12  # characters of a hash or run id that are shown


class Tracer:
    """Follows the md5 hashes that runs read and wrote. Only runs that executed count as makers."""

    def __init__(self, records: Iterable[Record], locked: dict[str, str]) -> None:
        records = list(records)
        self.locked = locked
        self.runs = [r for r in records if r.executed and r.status == "FINISHED"]
        self.by_id = {r.run_id: r for r in records} | {m: r for r in self.runs for m in r.models}

    def trace(self, what: str) -> Found:
        """Resolve a path, a hash or a run id (8 characters of these suffice), then look both ways."""
        for identity, record in self.by_id.items():
            if identity == what or (len(what) >= 8 and identity.startswith(what)):
                maker = self.by_id.get(record.tags.get("pretune.source_run", ""), record)
                if maker.outputs:
                    return {"run": maker.run_id, "made": [self._both(p, m) for p, m in maker.outputs.items()]}
                raise NotFoundInRecordsError(
                    f"run {what} ({record.name}) wrote no output", "pretune trace models/finetuned"
                )
        path, md5 = self._resolve(what)
        return {"run": None, "made": [self._both(path, md5)]}

    def _resolve(self, what: str) -> tuple[str, str]:
        path = what.rstrip("/").removeprefix("./")
        if path in self.locked:
            return path, self.locked[path]
        known = {m: p for r in self.runs for p, m in (r.inputs | r.outputs).items()} | {
            md5: path for path, md5 in self.locked.items()
        }
        for md5, path in known.items():
            if md5 == what or (len(what) >= 8 and md5.startswith(what)):
                return path, md5
        raise NotFoundInRecordsError(
            f"no output, hash or run `{what}` is known{did_you_mean(what, self.locked)}",
            "pretune trace models/finetuned   (or another path of dvc.lock)",
        )

    def _both(self, path: str, md5: str) -> Found:
        return {"path": path, "md5": md5, "made_by": self._back(path, md5), "used_by": self._forward(md5)}

    def _back(self, path: str, md5: str) -> Found | None:
        makers = [r for r in self.runs if r.outputs.get(path) == md5]
        if not makers:
            return None
        run = makers[-1]
        sources = [{"path": p, "md5": m, "made_by": self._back(p, m)} for p, m in sorted(run.inputs.items())]
        return self._facts(run) | {"inputs": sources}

    def _forward(self, md5: str) -> list[Found]:
        """Every run that read these bytes, and what was made of what it wrote, without repetition."""
        found, seen, pending = [], set(), [md5]
        while pending:
            wanted = pending.pop(0)
            for run in self.runs:
                if wanted in run.inputs.values() and run.run_id not in seen:
                    seen.add(run.run_id)
                    pending += run.outputs.values()
                    found.append(self._facts(run) | {"outputs": run.outputs, "models": run.models})
        return found

    def _facts(self, run: Record) -> Found:
        return {
            "stage": run.name,
            "run": run.run_id,
            "commit": run.tags.get("git.commit", "unknown"),
            "dirty": run.tags.get("git.dirty") == "true",
            "params": run.params,
        }

    def tree(self, found: Found) -> Tree:
        """The same for a terminal."""
        from rich.markup import escape
        from rich.tree import Tree

        top = Tree(f"run {found['run']}" if found["run"] else "lineage")
        for item in found["made"]:
            node = top.add(f"[bold]{escape(item['path'])}[/bold]  {item['md5'][:SHORT]}")
            _add_maker(node.add("made by"), item["made_by"])
            users = node.add("used by" if item["used_by"] else "used by nothing that is recorded")
            for user in item["used_by"]:
                outputs = "  ".join(f"{escape(p)} {m[:SHORT]}" for p, m in user["outputs"].items())
                models = "".join(f"  models:/{m}" for m in user["models"])
                users.add(f"{_line(user)}  →  {outputs}{models}")
        return top


def _add_maker(node: Tree, maker: Found | None) -> None:
    if maker is None:
        node.add("[dim]nothing that is recorded (a file of your own, or a run that MLflow does not know)[/dim]")
        return
    made = node.add(_line(maker))
    if maker["params"]:
        made.add("params  " + ", ".join(f"{key}={value}" for key, value in maker["params"].items()))
    for source in maker["inputs"]:
        below = made.add(f"{source['path']}  {source['md5'][:SHORT]}")
        if source["made_by"]:
            _add_maker(below, source["made_by"])


def _line(run: Found) -> str:
    dirty = " with changes (changes.patch in the run)" if run["dirty"] else ""
    return f"[cyan]{run['stage']}[/cyan] run {run['run'][:SHORT]}, commit {run['commit'][:SHORT]}{dirty}"
