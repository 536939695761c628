"""What the Llama 4 licence withholds, and from whom."""

import pytest

from gateway.core.licenses import conflict

LLAMA = "llama-4-community"


@pytest.mark.parametrize(
    ("name", "eu", "users", "withheld"),
    [
        (LLAMA, False, None, None),
        (LLAMA, False, 700_000_000, None),
        (LLAMA, False, 700_000_001, "700,000,000 monthly users"),
        (LLAMA, True, None, "licensees in the EU"),
        (LLAMA, True, 1, "licensees in the EU"),
        ("apache-2.0", True, 10**9, None),
        ("nobody-knows-it", True, 10**9, None),
    ],
)
def test_the_rights_depend_on_the_licensees_seat_and_size(
    name: str, eu: bool, users: int | None, withheld: str | None
):
    found = conflict(name, eu_domiciled=eu, monthly_users=users)
    assert (found is None) if withheld is None else (found is not None and withheld in found)
