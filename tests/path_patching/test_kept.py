"""What is kept of several owners, and who is let go of first."""

from __future__ import annotations

import gc
import weakref

from path_patching.kept import Kept


class Owner:
    """Anything that can be referred to weakly."""


def test_the_one_asked_longest_ago_is_let_go_of_first():
    kept, owners = Kept(), [Owner() for _ in range(3)]
    for owner, what in zip(owners[:2], "ab", strict=True):
        kept.keep(owner, what, n_bytes=4, at_most=10)
    assert kept.of(owners[0]) == "a"
    kept.keep(owners[2], "c", n_bytes=4, at_most=10)
    assert [kept.of(owner) for owner in owners] == ["a", None, "c"]


def test_what_is_larger_than_all_memory_is_kept_alone():
    kept, owners = Kept(), [Owner(), Owner()]
    kept.keep(owners[0], "a", n_bytes=4, at_most=10)
    kept.keep(owners[1], "b", n_bytes=20, at_most=10)
    assert [kept.of(owner) for owner in owners] == [None, "b"]


def test_what_is_kept_anew_takes_the_place_of_what_was():
    kept, owner, other = Kept(), Owner(), Owner()
    kept.keep(other, "b", n_bytes=4, at_most=10)
    for what in "ac":
        kept.keep(owner, what, n_bytes=6, at_most=10)
    assert [kept.of(owner), kept.of(other)] == ["c", "b"]


def test_owners_that_are_gone_leave_nothing():
    kept, owner, thing = Kept(), Owner(), Owner()
    kept.keep(owner, thing, n_bytes=1, at_most=10)
    still_there = weakref.ref(thing)
    del owner, thing
    gc.collect()
    assert still_there() is None


def test_all_is_let_go_of_at_once():
    kept, owner = Kept(), Owner()
    kept.keep(owner, "a", n_bytes=1, at_most=10)
    kept.clear()
    assert kept.of(owner) is None
