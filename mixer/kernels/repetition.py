"""Where the end of a sequence of tokens stands in it already, compiled. Knows token ids alone."""

from __future__ import annotations

from mixer.kernels.simd import entry


@entry
def match_ends(ids, found):
    """Write to `found` how many tokens before each place, itself included, equal the last tokens of `ids`.

    The Z-algorithm on the reversed sequence (Gusfield, Algorithms on Strings, Trees, and Sequences, 1997): linear in
    the number of tokens.

    Args:
        ids: `(n,)` int64.
        found: `(n,)` int64, written; at the last place it is n.
    """
    end = ids.size - 1
    left = right = 0  # the match that reaches farthest back, counted from the end
    for i in range(ids.size):
        length = min(right - i, found[end - (i - left)]) if 0 < i < right else 0
        while i + length <= end and ids[end - length] == ids[end - i - length]:
            length += 1
        found[end - i] = length
        if i > 0 and i + length > right:
            left, right = i, i + length
