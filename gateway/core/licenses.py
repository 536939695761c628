"""What the licences of model weights ask of who runs them, as far as routing can heed it.

Source: the Llama 4 community licence (additional commercial terms) and its acceptable use policy, which
withholds the rights to its multimodal models, and all of Llama 4 is multimodal, from licensees in the EU.
Their end users are exempt, so it is the seat of the licensee that counts and not where a request comes from.
"""

from collections.abc import Mapping
from typing import Final

import msgspec


class Terms(msgspec.Struct, frozen=True):
    """`most_monthly_users`: with more of them a licence of one's own is needed; None: no such bound."""

    most_monthly_users: int | None = None
    admits_eu_licensees: bool = True


TERMS: Final[Mapping[str, Terms]] = {
    "llama-4-community": Terms(most_monthly_users=700_000_000, admits_eu_licensees=False),
    "apache-2.0": Terms(),
    "mit": Terms(),
}


def conflict(license_name: str, *, eu_domiciled: bool, monthly_users: int | None) -> str | None:
    """Why the licence withholds its rights from such a licensee; None when it does not, or is not known."""
    terms = TERMS.get(license_name, Terms())
    if eu_domiciled and not terms.admits_eu_licensees:
        return f"{license_name} grants no rights to its multimodal models to licensees in the EU"
    most = terms.most_monthly_users
    if most is not None and monthly_users is not None and monthly_users > most:
        return f"{license_name} asks for a licence of one's own beyond {most:,} monthly users"
    return None
