"""The pictures of the documentation, from a run of the present code: `make docs-figures` (five minutes, Chromium).

Copies the project, runs the pipeline as params.yaml has it and with three other values, opens the report, MLflow and
Prefect in a browser, and writes docs/images/.
"""

from __future__ import annotations

import io
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from overhead import ROOT, call, copy_project
from PIL import Image
from rich.console import Console
from rich.text import Text

IMAGES = ROOT / "docs" / "images"
CHANGES = ("finetune.learning_rate=3e-4", "finetune.epochs=1", "seed=1")
PRETUNE = [sys.executable, "-m", "cli.app"]
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
ASSISTANT = 390  # pixels on the right of MLflow's pages: a chat window that we do not use
COLOURS = 128  # of a picture: a third of the bytes


def main() -> None:
    """Make all pictures."""
    browser = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if browser is None:
        sys.exit("error: no browser found\nnext:  install Chromium")
    IMAGES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        workspace = copy_project(Path(folder) / "pretune")
        terminal(workspace)
        for change in CHANGES:
            call([*PRETUNE, "run", "--set", change], workspace)
        picture(browser, (workspace / "reports" / "report.html").as_uri(), "report", size=(1000, 900))
        pages(browser, workspace)


def terminal(workspace: Path) -> None:
    """`pretune run` as a log shows it, as SVG."""
    done = subprocess.run(
        [*PRETUNE, "run"],
        cwd=workspace,
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"COLUMNS": "100"},
    )
    console = Console(record=True, width=100, file=io.StringIO())
    console.print(Text("$ pretune run", style="bold"))
    console.print(Text(done.stderr + done.stdout), end="")
    console.save_svg(str(IMAGES / "terminal.svg"), title="pretune run", font_aspect_ratio=0.6)


def pages(browser: str, workspace: Path) -> None:
    """MLflow's list of runs, two runs compared, and Prefect's timeline of the first."""
    with subprocess.Popen(
        [*PRETUNE, "ui", "--mlflow-port", "5091", "--prefect-port", "4291"],
        cwd=workspace, stdout=subprocess.PIPE, text=True, start_new_session=True,
    ) as servers:  # fmt: skip
        try:
            assert servers.stdout is not None
            mlflow, prefect = (servers.stdout.readline().split()[-1] for _ in range(2))
            picture(browser, mlflow, "mlflow-runs", size=(1500, 620), cut=ASSISTANT)
            charts = f"{mlflow}&compareRunsMode=CHART"
            picture(browser, charts, "mlflow-compare", size=(1500, 900), cut=ASSISTANT, seconds=60)
            run = flow_run(workspace)
            picture(browser, f"{prefect}/runs/flow-run/{run}", "prefect-timeline", size=(1300, 900), seconds=40)
        finally:
            os.killpg(servers.pid, signal.SIGINT)
            servers.wait(60)


def flow_run(workspace: Path) -> str:
    """The id of the first pipeline run's flow run."""
    query = (
        "SELECT flow.value FROM tags flow JOIN tags kind ON kind.run_uuid = flow.run_uuid JOIN runs"
        " ON runs.run_uuid = flow.run_uuid WHERE flow.key = 'prefect.flow_run_id' AND kind.key = 'pretune.kind'"
        " AND kind.value = 'pipeline' ORDER BY runs.start_time LIMIT 1"
    )
    with sqlite3.connect(workspace / "mlflow.db") as database:
        return str(database.execute(query).fetchone()[0])


def picture(browser: str, address: str, name: str, *, size: tuple[int, int], cut: int = 0, seconds: int = 30) -> None:
    """A page as it looks after some seconds of its own time, without `cut` pixels on the right."""
    path = IMAGES / f"{name}.png"
    began = time.monotonic()
    command = [
        browser, "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
        f"--window-size={size[0]},{size[1]}", f"--virtual-time-budget={seconds * 1000}", f"--screenshot={path}",
        address,
    ]  # fmt: skip
    subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True, timeout=300)
    with Image.open(path) as image:
        kept = image.convert("RGB").crop((0, 0, image.width - cut, image.height))
    kept.quantize(COLOURS).save(path, optimize=True)
    print(f"{path.relative_to(ROOT)}: {path.stat().st_size // 1024} KB, {time.monotonic() - began:.0f} s", flush=True)


if __name__ == "__main__":
    main()
