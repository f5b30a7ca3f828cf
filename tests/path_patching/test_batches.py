"""Sentences come back in their order; the LRU cache: what is kept of several keys, and which goes first."""

from __future__ import annotations

import gc
import weakref

import torch

from path_patching.batches import Batches, LruCache, Memory
from path_patching.engine import Sentences


def test_results_of_batches_are_joined_in_the_order_of_the_sentences():
    tokens = torch.tensor([[5, 7], [1, 9], [3, 2], [1, 9], [0, 4]])  # in no order, and one of them twice
    batches = Batches(Sentences(tokens, tokens + 1, tokens[0]), Memory("cpu", gigabytes=4e-9))
    found = []
    for part in batches.parts(needed=8.0):
        with part:
            found.append(batches.pairs[part.rows, 0][None])
    assert len(found) > 1
    assert torch.equal(batches.joined(found)[0], tokens)


class Key:
    """Anything that can be referred to weakly."""


def test_the_one_asked_longest_ago_is_let_go_of_first():
    cache, keys = LruCache(), [Key() for _ in range(3)]
    for key, what in zip(keys[:2], "ab", strict=True):
        cache.put(key, what, n_bytes=4, at_most=10)
    assert cache.get(keys[0]) == "a"
    cache.put(keys[2], "c", n_bytes=4, at_most=10)
    assert [cache.get(key) for key in keys] == ["a", None, "c"]


def test_what_is_larger_than_all_memory_is_kept_alone():
    cache, keys = LruCache(), [Key(), Key()]
    cache.put(keys[0], "a", n_bytes=4, at_most=10)
    cache.put(keys[1], "b", n_bytes=20, at_most=10)
    assert [cache.get(key) for key in keys] == [None, "b"]


def test_what_is_kept_anew_takes_the_place_of_what_was():
    cache, key, other = LruCache(), Key(), Key()
    cache.put(other, "b", n_bytes=4, at_most=10)
    for what in "ac":
        cache.put(key, what, n_bytes=6, at_most=10)
    assert [cache.get(key), cache.get(other)] == ["c", "b"]


def test_keys_that_are_gone_leave_nothing():
    cache, key, thing = LruCache(), Key(), Key()
    cache.put(key, thing, n_bytes=1, at_most=10)
    still_there = weakref.ref(thing)
    del key, thing
    gc.collect()
    assert still_there() is None


def test_all_is_let_go_of_at_once():
    cache, key = LruCache(), Key()
    cache.put(key, "a", n_bytes=1, at_most=10)
    cache.clear()
    assert cache.get(key) is None
