"""Laws of the prefix cache: never another mix's keys, the longest known prefix, bounded, oldest use dropped first."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import example, given
from hypothesis import strategies as st

from mixer.model.prefix_cache import SHORTEST, PrefixCache

MOST = 40  # tokens


@dataclass(frozen=True)
class Snapshot:
    """Stands for keys and values: the mix and the tokens that they belong to."""

    mix: str
    ids: tuple[int, ...]


@dataclass
class PlainCache:
    """The same cache as a plain list, the longest unused first."""

    entries: list[Snapshot] = field(default_factory=list)

    def find(self, mix: str, ids: list[int]) -> int:
        lengths = [common_prefix(entry.ids, ids) if entry.mix == mix else 0 for entry in self.entries]
        longest = max(lengths, default=0)
        if longest < SHORTEST:
            return 0
        self.entries.append(self.entries.pop(lengths.index(longest)))
        return longest

    def keep(self, entry: Snapshot) -> None:
        self.entries = [own for own in self.entries if own != entry] + [entry]
        while sum(len(own.ids) for own in self.entries) > MOST:
            del self.entries[0]


def common_prefix(a: tuple[int, ...], b: list[int]) -> int:
    return next((n for n in range(min(len(a), len(b)), 0, -1) if list(a[:n]) == b[:n]), 0)


# Two tokens and few lengths, so that texts often share a prefix.
texts = st.one_of(
    st.lists(st.integers(0, 1), max_size=MOST + 5),
    st.tuples(st.integers(0, 30), st.integers(0, 1)).map(lambda pair: [0] * pair[0] + [pair[1]] * 3),
)
moves = st.lists(st.tuples(st.sampled_from(["find", "want", "keep"]), st.sampled_from(["a", "b"]), texts), max_size=30)


@given(moves)
@example([("keep", "a", [0] * 30), ("keep", "a", [0] * 30), ("keep", "b", [1] * 10), ("find", "a", [0] * 30)])
@example([("keep", "a", [0] * 20), ("keep", "b", [0] * 20), ("keep", "a", [0] * 20), ("keep", "b", [1] * 10)])
def test_a_cache_does_what_a_list_of_its_snapshots_would(moves: list[tuple[str, str, list[int]]]):
    cache, plain = PrefixCache(MOST), PlainCache()
    for what, mix, ids in moves:
        entry = Snapshot(mix, tuple(ids))
        if what == "keep":
            cache.keep(mix, ids, entry)
            plain.keep(entry)
        elif what == "want":
            fits = SHORTEST <= len(ids) <= MOST
            assert cache.wants(mix, ids) == (fits and entry not in plain.entries)
        else:
            length, snapshot = cache.find(mix, ids)
            assert length == plain.find(mix, ids)
            assert (snapshot is None) == (length == 0)
            if snapshot is not None:
                assert snapshot.mix == mix and list(snapshot.ids[:length]) == ids[:length]
        assert cache.tokens == sum(len(own.ids) for own in plain.entries) <= MOST


@given(texts, texts)
def test_another_mix_s_snapshot_is_never_found(kept: list[int], asked: list[int]):
    cache = PrefixCache(MOST)
    cache.keep("a", kept, "snapshot")
    assert cache.find("b", asked) == cache.find("b", kept) == (0, None)


def test_of_several_prefixes_the_longest_is_found():
    cache = PrefixCache(1000)
    for length in (8, 30, 12):
        cache.keep("a", range(length), length)
    cache.keep("b", range(100), "another mix's")
    assert cache.find("a", range(200)) == (30, 30)
    assert cache.find("a", range(10))[0] == 10
    assert cache.find("a", [*range(13), 0]) == (13, 30)
    assert cache.find("a", range(7)) == (0, None), "shorter than is worth a copy"
    assert cache.find("a", []) == (0, None)


def test_what_was_used_last_goes_last():
    cache = PrefixCache(30)
    for name in "abc":
        cache.keep(name, range(10), name)
    cache.find("a", range(10))
    cache.keep("d", range(10), "d")
    assert [cache.find(name, range(10))[1] for name in "abcd"] == ["a", None, "c", "d"]
    cache.keep("a", range(10), "anew")
    cache.keep("e", range(20), "e")
    assert [cache.find(name, range(20))[1] for name in "acde"] == ["anew", None, None, "e"]


def test_a_snapshot_that_is_too_long_is_not_wanted():
    cache = PrefixCache(30)
    assert cache.wants("a", range(30)) and not cache.wants("a", range(31)) and not cache.wants("a", range(7))
