"""Database tables."""

from __future__ import annotations

import sqlite3
import sys

import pytest

from pretune.errors import DataError


def test_a_table_of_a_database_is_read_in_the_order_of_its_key(tmp_path, values):
    """Not in the order of insertion; for an unknown table the message suggests the nearest."""
    with sqlite3.connect(tmp_path / "a.db") as database:
        database.execute("CREATE TABLE reviews (id INTEGER PRIMARY KEY, text TEXT)")
        database.executemany("INSERT INTO reviews VALUES (?, ?)", [(2, "two"), (1, "one")])
    database.close()
    assert values("sqlite:///a.db#reviews") == [{"id": 1, "text": "one"}, {"id": 2, "text": "two"}]
    with pytest.raises(DataError, match=r"no table `review` \(did you mean reviews\?\)"):
        values("sqlite:///a.db#review")


def test_a_missing_database_is_not_created(tmp_path, values, write):
    """As SQLite itself would do."""
    write(tmp_path / "reviews.db", "")
    with pytest.raises(DataError, match=r"no file review\.db \(did you mean reviews\.db\?\)"):
        values("sqlite:///review.db#t")
    assert not (tmp_path / "review.db").exists()


def test_a_password_in_an_address_is_refused(values):
    """params.yaml is recorded. The message does not repeat the password."""
    with pytest.raises(DataError) as caught:
        values("postgresql://me:secret@example.org/db#t", allow=["network"])
    assert "secret" not in str(caught.value)
    assert "PRETUNE_SQL_PASSWORD" in caught.value.next_step


def test_a_missing_driver_is_an_error_with_its_package(values, monkeypatch):
    """The name of the package is not that of the module."""
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(DataError, match="no driver") as caught:
        values("postgresql://127.0.0.1/db#t", allow=["network"])
    assert caught.value.next_step == "pip install 'psycopg[binary]'"
