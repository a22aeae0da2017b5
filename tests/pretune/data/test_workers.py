from __future__ import annotations

import socket
import sys
import threading

import pytest

from pretune.cluster import connection
from pretune.data import workers
from pretune.errors import DataError, WorkspaceError


def test_results_come_in_the_order_of_chunks():
    """Even if a later chunk is done first."""
    later = threading.Event()

    def work(number):
        if number == 0:
            assert later.wait(60)
        if number == 1:
            later.set()
        return number * 2

    assert list(workers.in_order(work, range(5))) == [0, 2, 4, 6, 8]


def test_few_chunks_are_submitted_ahead():
    """Memory holds a few chunks, not all of them."""
    taken = []

    def chunks():
        for number in range(100):
            taken.append(number)
            yield number

    results = workers.in_order(lambda number: number, chunks())
    assert next(results) == 0
    assert len(taken) <= workers.THREADS + 1
    results.close()


def test_an_error_in_the_work_ends_it():
    """After the results of the earlier chunks."""

    def work(number):
        if number == 2:
            raise DataError("number 2 is bad")
        return number

    results = workers.in_order(work, range(9))
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(DataError, match="number 2 is bad"):
        next(results)


def test_chunks_hold_all_items_in_order(monkeypatch):
    """The last ones included."""
    monkeypatch.setattr(workers, "CHUNK", 3)
    assert list(workers.chunked(iter(range(7)))) == [[0, 1, 2], [3, 4, 5], [6]]
    assert not list(workers.chunked([]))


def test_without_ray_a_cluster_is_an_error(monkeypatch):
    """The message has the command that installs Ray."""
    monkeypatch.setenv(connection.CLUSTER, "auto")
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(WorkspaceError, match="not installed") as caught:
        connection.connect()
    assert "pretune[cluster]" in caught.value.next_step


def test_a_cluster_that_does_not_answer_is_an_error(monkeypatch):
    """At once; the message has the address and the next command."""
    pytest.importorskip("ray", reason="the extra `cluster`")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # nothing listens
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        monkeypatch.setenv(connection.CLUSTER, address)
        with pytest.raises(WorkspaceError, match=address) as caught:
            next(workers.in_order(len, ["ab"]))
    assert "ray start --head" in caught.value.next_step
