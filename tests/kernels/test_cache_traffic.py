"""What benchmarks/traffic.py says of a cache, by cases that can be counted by hand."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
from traffic import Cache, Walk


@pytest.mark.parametrize(
    ("size", "again"),
    [
        (200, 0),  # all is near
        (150, 200),  # the longest unused goes first, so that a second walk in the same order finds nothing
    ],
)
def test_a_second_walk_finds_all_or_nothing(size: float, again: float) -> None:
    cache, walk = Cache(size), Walk({"a": 100, "b": 100})
    assert cache.walk(walk) == 200
    assert cache.walk(walk) == again


def test_what_was_written_crosses_the_bus_once_when_it_is_dropped_and_not_if_it_is_overwritten() -> None:
    cache = Cache(100)
    assert cache.walk(Walk({}, {"a": 100})) == 0
    assert cache.walk(Walk({}, {"a": 100})) == 0
    assert cache.walk(Walk({"b": 100})) == 200
    assert cache.walk(Walk({"c": 100})) == 100


def test_a_walk_back_finds_the_last_tokens_and_what_is_read_for_the_last_time_makes_room() -> None:
    cache = Cache(50)
    cache.walk(Walk({"a": 100}, order="tokens"))
    assert cache.walk(Walk({"a": 100}, order="back")) == 50
    kept = Cache(100)
    kept.walk(Walk({"a": 50}))
    kept.walk(Walk({"b": 100}, last=frozenset({"b"})))
    assert kept.walk(Walk({"a": 50})) == 0
