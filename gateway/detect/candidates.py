"""How candidates are tested, so that a hostile text cannot buy more than a bounded number of tests."""

from collections.abc import Callable, Iterable

# Each candidate passes by chance with 1 in 10 (cards, individual numbers) or 1 in 97 (IBANs): no honest text
# holds so many different ones that all fail.
MOST_FAILURES = 2_000


def any_passes(candidates: Iterable[bytes], passes: Callable[[bytes], bool]) -> bool:
    """Whether one of `candidates` passes, or more than MOST_FAILURES different ones fail.

    Giving up counts as found: a class raised too far only keeps a request closer to home.
    """
    failed: set[bytes] = set()
    for candidate in candidates:
        if candidate in failed:
            continue
        if passes(candidate):
            return True
        failed.add(candidate)
        if len(failed) > MOST_FAILURES:
            return True
    return False
