from __future__ import annotations

import heapq
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Barrier

import pytest

from flows import schedule
from flows.schedule import Resources, Schedule
from pretune.lineage.graph import Node

GRAPH = {
    "prepare": [], "pretrain": ["prepare"], "scratch": ["prepare"], "finetune": ["pretrain"],
    "evaluate": ["finetune", "scratch"],
}  # fmt: skip
TAKES = {"prepare": 2.0, "pretrain": 9.0, "scratch": 4.0, "finetune": 3.0, "evaluate": 1.0}
TWO_THREADS = dict.fromkeys(["pretrain", "scratch", "finetune", "evaluate"], Resources(2)) | {"prepare": Resources(1)}


def nodes(graph):
    """Stages with these upstreams and nothing else."""
    return {name: Node(name, "", [], [], [], upstream, {}) for name, upstream in graph.items()}


def simulated(graph, asks, takes, cores, gpus=()):
    """When each stage begins and ends and on which GPUs, were each to take what it takes."""
    plan = Schedule(nodes(graph), asks.__getitem__, takes, cores, list(gpus))
    now, running, spans = 0.0, [], {}
    while len(spans) < len(graph) or running:
        while name := plan.begin():
            spans[name] = (now, now + takes[name], plan.gpus(name))
            heapq.heappush(running, (now + takes[name], name))
        now, ended = heapq.heappop(running)
        plan.end(ended)
    return spans


def peak_cores(spans, asks):
    """The largest number of cores that were taken at a time."""
    return max(sum(asks[n].cores for n, (a, b, _) in spans.items() if a <= at < b) for at, *_ in spans.values())


def test_stages_that_fill_the_machine_run_one_after_the_other():
    """Two threads each on two cores: never side by side, the branch with the longest way to the end first."""
    spans = simulated(GRAPH, TWO_THREADS, TAKES, cores=2)
    assert peak_cores(spans, TWO_THREADS) == 2
    assert sorted(spans, key=spans.get) == ["prepare", "pretrain", "scratch", "finetune", "evaluate"]
    assert spans["evaluate"][1] == sum(TAKES.values())


def test_more_cores_run_branches_side_by_side():
    """On four cores two of two threads: the run ends when its critical path does."""
    spans = simulated(GRAPH, TWO_THREADS, TAKES, cores=4)
    assert spans["pretrain"][0] == spans["scratch"][0]
    assert spans["evaluate"][1] == 2 + 9 + 3 + 1


def test_a_stage_that_wants_more_than_the_machine_has_gets_it_alone():
    """Eight cores asked for on four: it waits until all are free, and nothing starts meanwhile or beside it."""
    graph = {"first": [], "big": ["first"], "small": ["first"], "long": []}
    asks = {"first": Resources(1), "big": Resources(8), "small": Resources(1), "long": Resources(1)}
    spans = simulated(graph, asks, {"first": 1.0, "big": 5.0, "small": 1.0, "long": 3.0}, cores=4)
    assert spans["big"][:2] == (3, 8)
    assert spans["small"][0] == 8


def test_the_longest_way_goes_first_whatever_the_order_of_the_graph():
    """Of stages that are ready together, the one with most work behind it; times that are not known count alike."""
    graph = {"a": [], "b": [], "c": ["b"], "d": ["c"]}
    asks = dict.fromkeys(graph, Resources(1))
    takes = dict.fromkeys(graph, schedule.UNKNOWN)
    assert simulated(graph, asks, takes, cores=1)["b"][0] == 0
    assert simulated(graph, asks, takes | {"a": 900.0}, cores=1)["a"][0] == 0


def test_a_stage_with_nothing_to_do_waits_for_no_core():
    """One that asks for nothing begins although all cores are taken."""
    graph = {"busy": [], "fresh": []}
    spans = simulated(graph, {"busy": Resources(2), "fresh": Resources(0)}, {"busy": 9.0, "fresh": 0.0}, cores=2)
    assert spans["fresh"][0] == 0


def test_stages_that_train_get_a_gpu_of_their_own():
    """Two GPUs: two side by side, each told another one; one that needs both waits; cores are left for the rest."""
    graph = {"one": [], "two": [], "both": [], "rest": []}
    asks = {"one": Resources(1, 1), "two": Resources(1, 1), "both": Resources(2, 2), "rest": Resources(1)}
    takes = {"one": 9.0, "two": 8.0, "both": 7.0, "rest": 1.0}
    spans = simulated(graph, asks, takes, cores=8, gpus=["0", "1"])
    assert (spans["one"][0], spans["two"][0], spans["both"][0], spans["rest"][0]) == (0, 0, 9, 0)
    assert sorted(spans["one"][2] + spans["two"][2]) == ["0", "1"] == sorted(spans["both"][2])


def test_all_stages_are_submitted_with_what_they_need_even_if_one_fails():
    """Each once, after its upstream has ended, with the futures of it."""
    submitted = {}

    def submit(name, upstream):
        future = Future()
        submitted[name] = upstream
        future.set_exception(ZeroDivisionError()) if name == "pretrain" else future.set_result(name)
        return future

    graph = nodes(GRAPH)
    futures = schedule.submit_all(graph, Schedule(graph, TWO_THREADS.__getitem__, TAKES, 2, []), submit)
    assert submitted == {name: [futures[up] for up in upstream] for name, upstream in GRAPH.items()}


def test_branches_of_the_graph_run_at_the_same_time():
    """Two branches that wait for each other end, where there are cores for both."""
    both = Barrier(2)

    def run(name):
        return both.wait(timeout=60) if name in {"pretrain", "scratch"} else None

    graph = nodes(GRAPH)
    with ThreadPoolExecutor(len(graph)) as pool:
        plan = Schedule(graph, TWO_THREADS.__getitem__, TAKES, 4, [])
        futures = schedule.submit_all(graph, plan, lambda name, _: pool.submit(run, name))
    assert sorted([futures["pretrain"].result(), futures["scratch"].result()]) == [0, 1]


@pytest.mark.parametrize(
    ("stage", "shares", "gpus", "asked"),
    [
        ("prepare", [], [], Resources(1)),
        ("pretrain", [], [], Resources(6)),
        ("pretrain", [], ["0"], Resources(3, 3)),
        ("evaluate", [], ["0"], Resources(2)),
        ("label_efficiency", [0.5, 1], ["0"], Resources(3, 3)),
    ],
)
def test_a_stage_asks_for_its_threads_or_its_gpus(params, stage, shares, gpus, asked):
    """Threads for each process of a stage that trains, or a GPU and a core for each; one core without either."""
    sections = {"prepare": ["prepare"], "evaluate": ["threads"]}.get(stage, ["threads", "launch.processes"])
    launch = params.launch.model_copy(update={"processes": 3})
    few = params.label_efficiency.model_copy(update={"shares": shares})
    params = params.model_copy(update={"threads": 2, "launch": launch, "label_efficiency": few})
    assert schedule.needs(Node(stage, "", [], sections, [], [], {}), params, gpus) == asked


@pytest.mark.parametrize(
    ("above", "own", "expected"),
    [("max 100000", "150000 100000", 1), ("50000 100000", "max 100000", 1), (None, None, 64)],
)
def test_the_quota_of_a_container_counts(tmp_path, monkeypatch, above, own, expected):
    """Processors are those of the affinity, at most what a cgroup of this process allows, at least one."""
    (tmp_path / "self").write_text("1:cpu:/old\n0::/pod/task\n", encoding="utf-8")
    for folder, text in (("pod", above), ("pod/task", own)):
        (tmp_path / folder).mkdir()
        if text:
            (tmp_path / folder / "cpu.max").write_text(text + "\n", encoding="utf-8")
    monkeypatch.setattr(schedule, "CGROUPS", tmp_path)
    monkeypatch.setattr(schedule, "OWN_CGROUP", tmp_path / "self")
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(64)))
    assert schedule.cores() == expected


@pytest.mark.parametrize(("visible", "names"), [("0,2", ["0", "2"]), ("", []), ("-1", []), ("GPU-3f2a", ["GPU-3f2a"])])
def test_gpus_are_those_that_cuda_is_shown(monkeypatch, visible, names):
    """What CUDA_VISIBLE_DEVICES names is what stages are given."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert schedule.gpus() == names
