from __future__ import annotations

import itertools
import json
import math

import optuna
import pytest
from sqlalchemy import event
from sqlalchemy.engine import Engine

from pretune.studies import settings as sweep_settings
from pretune.studies import space as spaces
from pretune.studies.results import SeedResult
from pretune.studies.search import Search

PLANTED = [
    "method=full,lora,head",
    "rate=log:1e-5..1e-1",
    "r=4,8,16,32 if method=lora",
    "dropout=0..0.5",
]
TOLERANCE, TRIALS = 0.15, 50  # of the planted loss, whose least value is 0; and the trials in which it is found
SEEDS = range(100, 110)
FINITE = ["method=full,lora", "r=1,2,3 if method=lora", "epochs=1,2"]


@pytest.fixture(autouse=True)
def _without_fsync():
    """SQLite does not wait for the disk: no test cuts the power."""

    def connect(connection, _record):
        connection.execute("PRAGMA synchronous=OFF")

    event.listen(Engine, "connect", connect)
    yield
    event.remove(Engine, "connect", connect)


def loss(point):
    """The distance from the planted point: lora, r=16, rate=1e-3, dropout=0.2."""
    method = {"lora": 0.0, "full": 0.25, "head": 1.0}[point["method"]]
    rank = 0.1 * abs(math.log2(point["r"] / 16)) if "r" in point else 0.0
    return method + rank + (math.log10(point["rate"]) + 3) ** 2 / 4 + 8 * (point["dropout"] - 0.2) ** 2


def opened(folder, lines=PLANTED, *, higher=(False,), feasible=None, **given):
    """A search in a folder, which is made if it does not exist."""
    folder.mkdir(exist_ok=True)
    content = {"name": "test", "space": {"key": "1"}, "metric": ["loss", "seconds"][: len(higher)], "sampler": "tpe"}
    asked = sweep_settings.validate(content | {"trials": TRIALS} | given)
    return Search(folder, asked, spaces.parse(lines), list(higher), feasible or (lambda _point: []))


def proposed(search, values=lambda point: [len(json.dumps(point)) % 7 + 0.1]):
    """All points of a search, each told before the next is proposed."""
    points = []
    while proposal := search.propose():
        points.append(proposal.point)
        search.tell(proposal, values(proposal.point), [])
    return points


def trials_to_find(folder, sampler, seed):
    """The trials until the planted point is found within the tolerance; infinite if it is not."""
    search = opened(folder, sampler=sampler, search_seed=seed)
    for count in itertools.count(1):
        proposal = search.propose()
        if proposal is None:
            return math.inf
        if loss(proposal.point) < TOLERANCE:
            return count
        search.tell(proposal, [loss(proposal.point)], [])
    return math.inf


@pytest.mark.slow
def test_tpe_finds_a_planted_point_and_random_search_does_not(tmp_path):
    """Within 50 trials and a loss of 0.15, TPE finds it in at least 9 of 10 seeds; chance does in at most 7."""

    def missed(sampler, enough):
        """Whether `enough` of the seeds do not find it; the others need not be tried then."""
        misses = (seed for seed in SEEDS if trials_to_find(tmp_path / f"{sampler}-{seed}", sampler, seed) > TRIALS)
        return len(list(itertools.islice(misses, enough))) == enough

    assert not missed("tpe", 2)
    assert missed("random", 3)


@pytest.mark.parametrize("sampler", ["random", "tpe", "nsga2"])
def test_the_seed_decides_what_is_proposed(sampler, tmp_path):
    """The same seed proposes the same points, another one others."""
    points = [
        proposed(opened(tmp_path / name, sampler=sampler, trials=14, search_seed=seed), lambda point: [loss(point)])
        for name, seed in (("one", 3), ("same", 3), ("other", 4))
    ]
    assert points[0] == points[1]
    assert all(point not in points[0] for point in points[2])


def run_batches(folder, killed, **given):
    """Proposals of a search in batches of two with curves; it is dropped and opened anew wherever `killed()` says so.

    Returns the points, states and notes of the results.
    """
    search = opened(folder, **given)

    def again():
        return opened(folder, **given) if killed() else search

    while True:
        search = again()
        batch = search.interrupted()
        size = search.lacking(2)
        done = len(search.results())
        while len(batch) < 2 and size and (proposal := search.propose()):
            batch.append(proposal)
            size -= 1
            if killed():
                break
        else:
            if not batch:
                return [(trial.point, trial.state, trial.note) for trial in search.results()]
            for proposal in batch:
                if not run_one(search, proposal, killed):
                    break
        assert len(search.results()) >= done


def run_one(search, proposal, killed):
    """Three validations, and the end of a trial. Returns whether it came to that."""
    final = loss(proposal.point)
    for step in (1, 2, 3):
        pruned = search.report(proposal, step, final + 1 / step)
        if killed():
            return False
        if pruned:
            search.tell_ended(proposal, "pruned", f"pruned after validation {step}")
            return True
    search.tell(proposal, [final], [])
    return True


@pytest.mark.parametrize(("every", "pruner"), [(2, "none"), (2, "median"), (3, "halving"), (5, "median")])
def test_a_search_that_is_killed_goes_on_as_if_it_had_not_been(every, pruner, tmp_path):
    """Dropped between proposals, validations and ends, it proposes the same points, and the same are pruned."""
    given = {"trials": 14, "pruner": pruner, "search_seed": 5}
    calls = itertools.count(1)
    limit = 60  # kills: a search that is killed all the time never ends

    def killed():
        call = next(calls)
        return call % every == 0 and call < limit * every

    whole = run_batches(tmp_path / "whole", lambda: False, **given)
    assert len(whole) == 14
    assert run_batches(tmp_path / "killed", killed, **given) == whole
    assert {state for _, state, _ in whole} == ({"complete"} if pruner == "none" else {"complete", "pruned"})


@pytest.mark.parametrize("sampler", ["random", "tpe", "nsga2"])
@pytest.mark.parametrize("suggested", [0, 1, 3])
def test_a_point_that_was_being_drawn_is_drawn_again(suggested, sampler, tmp_path):
    """Killed after some keys were suggested, the search proposes what it would have proposed."""
    searches = [opened(tmp_path / name, sampler=sampler, trials=13) for name in ("whole", "killed")]
    for _ in range(12):
        for search in searches:
            proposal = search.propose()
            search.tell(proposal, [loss(proposal.point)], [])
    trial = searches[1]._study.ask()
    for key in ("method", "rate", "dropout")[:suggested]:
        searches[1]._space.dimensions[key].suggest(key, trial)
    again = opened(tmp_path / "killed", sampler=sampler, trials=13)
    assert again.interrupted() == []
    assert again.propose().point == searches[0].propose().point
    assert again.propose() is None


def test_an_enqueued_point_that_was_not_begun_is_enqueued_again(tmp_path):
    """Killed between the two, a grid leaves none out and tries none twice."""
    search = opened(tmp_path / "one", FINITE, sampler="grid", trials=None)
    search._study.enqueue_trial({"method": "full", "epochs": 2})
    search.interrupted()
    assert proposed(search) == spaces.parse(FINITE).grid()


@pytest.mark.parametrize("sampler", ["random", "tpe", "nsga2"])
def test_a_finite_space_is_tried_completely_and_nothing_twice(sampler, tmp_path):
    """All eight points, then the search says that it is exhausted."""
    search = opened(tmp_path / "one", FINITE, sampler=sampler)
    points = proposed(search)
    assert sorted(map(json.dumps, points)) == sorted(map(json.dumps, spaces.parse(FINITE).grid()))
    assert search.exhausted == "all 8 points of the space have been tried"


@pytest.mark.parametrize("sampler", ["grid", "random", "tpe", "nsga2"])
def test_points_that_cannot_run_are_not_proposed(sampler, tmp_path):
    """Only those with one epoch: in a grid, and in a search, which then says why it ends."""
    search = opened(
        tmp_path / "one", FINITE, sampler=sampler, feasible=lambda point: [] if point["epochs"] == 1 else ["too long"]
    )
    points = proposed(search)
    assert {point["epochs"] for point in points} == {1}
    assert len(points) == 4
    assert ("meet the constraints" in search.exhausted) == (sampler != "grid")


def test_a_space_in_which_nothing_can_run_ends_the_search(tmp_path):
    """Of a range no point meets the constraints: it says so after its attempts."""
    search = opened(tmp_path / "one", ["rate=0..1"], feasible=lambda _point: ["never"])
    assert search.propose() is None
    assert "constraints exclude" in search.exhausted


def test_a_grid_is_tried_in_its_order(tmp_path):
    """The last key fastest, conditions kept; with fewer trials its beginning; or the points that are asked for."""
    grid = spaces.parse(FINITE).grid()
    assert proposed(opened(tmp_path / "all", FINITE, sampler="grid", trials=None)) == grid
    assert proposed(opened(tmp_path / "five", FINITE, sampler="grid", trials=5)) == grid[:5]
    asked = [grid[6], grid[0]]
    assert proposed(opened(tmp_path / "asked", FINITE, sampler="grid", trials=None, points=asked)) == asked


@pytest.mark.parametrize("sampler", ["grid", "random", "tpe", "nsga2"])
def test_points_of_a_batch_differ(sampler, tmp_path):
    """Eight proposals before any of them has ended: all points of the space."""
    search = opened(tmp_path / "one", FINITE, sampler=sampler)
    points = [search.propose().point for _ in range(8)]
    assert len({json.dumps(point) for point in points}) == 8
    assert search.propose() is None
    assert {trial.state for trial in search.results()} == {"running"}


def curve(search, value, steps=9):
    """Run a trial with a constant curve; returns the step at which it is pruned, or 0."""
    proposal = search.propose()
    for step in range(1, steps + 1):
        if search.report(proposal, step, value):
            search.tell_ended(proposal, "pruned", "worse")
            return step
    search.tell(proposal, [value], [])
    return 0


@pytest.mark.parametrize("pruner", ["median", "halving"])
@pytest.mark.parametrize("higher", [True, False])
def test_a_worse_curve_is_pruned_and_the_best_never(higher, pruner, tmp_path):
    """After five trials, one that is worse than all of them ends early; one that is better than all does not."""
    search, sign = opened(tmp_path / "one", pruner=pruner, higher=[higher]), 1 if higher else -1
    ended = [curve(search, sign * value) for value in (1.0, 2.0, 3.0, 4.0, 5.0)]
    assert ended == [0] * 5
    assert curve(search, sign * 0.5) > 0
    assert curve(search, sign * 6.0) == 0
    assert [trial.state for trial in search.results()] == ["complete"] * 5 + ["pruned", "complete"]


def test_a_trial_that_runs_again_is_pruned_where_it_would_have_been(tmp_path):
    """Killed after validation 3, the rung at which it is too bad: validations 1 and 2 are not, 3 is again."""
    search = opened(tmp_path / "one", pruner="halving")
    assert [curve(search, value) for value in (5.0, 4.0, 3.0, 2.0, 1.0)] == [0] * 5
    search.propose()
    for _ in range(3):
        (running,) = search.interrupted()
        found = [search.report(running, step, value) for step, value in enumerate([0.5, 9.0, 9.0], start=1)]
        assert found == [False, False, True]
        search = opened(tmp_path / "one", pruner="halving")


@pytest.mark.parametrize("pruner", ["median", "halving"])
def test_a_trial_is_compared_only_with_those_that_ended_before_it_was_proposed(pruner, tmp_path):
    """Better trials that end while it runs change nothing: it is not pruned. The next one, as bad, is."""
    search = opened(tmp_path / "one", pruner=pruner)
    together = [search.propose() for _ in range(7)]
    for proposal in together[:6]:
        for step in range(1, 10):
            assert not search.report(proposal, step, 1.0)
        search.tell(proposal, [1.0], [])
    assert not any(search.report(together[6], step, 50.0) for step in range(1, 10))
    assert curve(search, 50.0) > 0


def test_optuna_opens_the_file_and_its_importance_agrees(tmp_path):
    """`load_study` finds the trials with their values; the key that decides is the important one."""
    search = opened(tmp_path / "one", ["a=log:1e-4..1", "b=0..1", "c=x"], sampler="random", trials=25)
    proposed(search, lambda point: [math.log10(point["a"]) ** 2 + 0.1 * point["b"]])
    address = f"sqlite:///{tmp_path / 'one' / 'study.db'}"
    study = optuna.load_study(storage=address, study_name="test")
    complete = [trial for trial in study.trials if trial.state.name == "COMPLETE"]
    assert [trial.values[0] for trial in complete] == [search.values()[number][0] for number in range(25)]
    assert optuna.importance.get_param_importances(study, params=["a", "b"])["a"] > 0.8
    own = search.importance()
    assert set(own) == {"a", "b"}
    assert own["a"] > 0.8
    assert sum(own.values()) == pytest.approx(1)


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_optuna_draws_the_study(tmp_path):
    """Its own history, parallel coordinates, slices and curves have the seven trials."""
    visualization = pytest.importorskip("optuna.visualization.matplotlib")
    search = opened(tmp_path / "one", pruner="median")
    for value in range(7):
        curve(search, float(value))
    study = optuna.load_study(storage=f"sqlite:///{tmp_path / 'one' / 'study.db'}", study_name="test")
    assert len(study.trials) == 7
    for name in ("optimization_history", "parallel_coordinate", "slice", "intermediate_values", "timeline"):
        drawn = getattr(visualization, f"plot_{name}")(study)
        axes = drawn if hasattr(drawn, "has_data") else drawn.flat[0]
        assert axes.has_data(), name


def test_importance_is_not_told_where_nothing_can_be_known(tmp_path):
    """Of three trials, and where all values are the same: no share is claimed."""
    search = opened(tmp_path / "few", trials=3)
    proposed(search)
    assert search.importance() == {}
    search = opened(tmp_path / "same", trials=8)
    proposed(search, lambda _point: [1.0])
    assert search.importance() == {}


def test_several_metrics_are_searched_in_their_directions(tmp_path):
    """NSGA-II raises the first and lowers the second; values and importance are there."""
    search = opened(tmp_path / "one", ["a=0..1", "b=0..1"], higher=[True, False], sampler="nsga2", trials=12)
    proposed(search, lambda point: [point["a"], point["a"] + point["b"]])
    assert [direction.name for direction in search._study.directions] == ["MAXIMIZE", "MINIMIZE"]
    assert all(
        values == [t.point["a"], t.point["a"] + t.point["b"]]
        for t, values in zip(search.results(), search.values().values(), strict=True)
    )
    assert search.importance()["a"] > search.importance()["b"]


def test_results_are_what_was_told(tmp_path):
    """Seeds with their curves and costs, notes of trials that did not end well, in the order of proposals."""
    search = opened(tmp_path / "one")
    first, second, third, _ = (search.propose() for _ in range(4))
    seeds = [SeedResult(0, 0.5, {"seconds": 2.0}, [(3, 0.75)], "run", "file")]
    search.tell_ended(second, "left out", "needs 90 GB")
    search.tell_ended(third, "failed", "no such file")
    search.tell(first, [0.5], seeds)
    results = opened(tmp_path / "one").results()
    assert [trial.state for trial in results] == ["complete", "left out", "failed", "running"]
    assert [trial.note for trial in results] == ["", "needs 90 GB", "no such file", ""]
    assert results[0].seeds == seeds
    assert [trial.number for trial in results] == [0, 1, 2, 3]


def test_a_metric_without_a_value_is_a_failure(tmp_path):
    """NaN is no value to compare: the trial has failed, and the search goes on."""
    search = opened(tmp_path / "one")
    search.tell(search.propose(), [math.nan], [SeedResult(0, math.nan)])
    assert search.results()[0].state == "failed"
    assert search.propose().number == 1


def test_a_trial_that_may_be_mended_is_tried_again_under_its_number(tmp_path):
    """One that failed for good is not; what the second attempt finds counts, and each point is there once."""
    search = opened(tmp_path / "one", trials=2)
    first, second = search.propose(), search.propose()
    search.tell_ended(first, "failed", "the disk is full", final=False)
    search.tell_ended(second, "failed", "the loss is not finite")
    again = opened(tmp_path / "one", trials=2)
    (retried,) = again.interrupted()
    assert (retried.number, retried.point) == (first.number, first.point)
    assert again.propose() is None
    again.tell(retried, [0.25], [])
    assert [(trial.state, trial.point) for trial in again.results()] == [
        ("complete", first.point),
        ("failed", second.point),
    ]
    assert opened(tmp_path / "one", trials=2).interrupted() == []


def test_an_end_that_was_cut_short_does_not_count(tmp_path):
    """Killed after the note and before the state: the trial still runs, once, and can become complete."""
    search = opened(tmp_path / "one", trials=1)
    proposal = search.propose()
    for name, content in (("note", "stopped"), ("state", "failed")):
        search._study._storage.set_trial_user_attr(proposal.trial._trial_id, name, content)
    again = opened(tmp_path / "one", trials=1)
    assert [(trial.state, trial.note) for trial in again.results()] == [("running", "")]
    (running,) = again.interrupted()
    again.tell(running, [1.0], [])
    assert [(trial.state, trial.note) for trial in again.results()] == [("complete", "")]
    assert opened(tmp_path / "one", trials=1).interrupted() == []
