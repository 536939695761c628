"""Which IBANs exist. Source: SWIFT IBAN Registry, the BBAN structure of each country (n digits, a letters, c
both)."""

import re

_COUNTRIES_BY_STRUCTURE = {
    "11n": "NO",
    "12n": "BE",
    "14n": "DK FI FO GL SD",
    "15n": "SI",
    "16n": "AT BA EE LT MN XK",
    "17n": "HR",
    "18n": "CR DE ME RS VA",
    "19n": "AE IL SO TL",
    "20n": "CZ ES SE SK TN",
    "21n": "LY PT ST",
    "23n": "BI DJ MR",
    "24n": "HU PL",
    "22n": "IS",
    "25n": "EG",
    "2n18c": "SA",
    "3n13c": "KZ LU",
    "3n10c2n": "MK",
    "4n20c": "LB",
    "5n12c": "CH LI",
    "6n16c": "TR",
    "6n19c": "UA",
    "3n16c": "OM",
    "7n16c": "GR",
    "8n12c": "AD",
    "8n16c": "AL CY",
    "14n15c": "RU",
    "10n11c2n": "FR MC",
    "23n1a1c": "BR",
    "1a10n12c": "IT SM",
    "2a12n": "FK",
    "2a16n": "GE",
    "4a10n": "NL",
    "4a14n": "GB IE",
    "4a15n": "IQ",
    "4a16n": "VG",
    "4a20n": "HN NI SV",
    "4a6n8c": "BG",
    "4a13c": "LV",
    "4a14c": "BH",
    "4a15c": "GI",
    "4a16c": "PK RO",
    "4a20c": "AZ",
    "4a21c": "PS QA",
    "4a22c": "KW",
    "4a24c": "LC",
    "4a4n18c": "JO YE",
    "4a5n18c": "MT",
    "4a19n3a": "MU",
    "4a20n3a": "SC",
    "4c4n16c": "BY",
    "4c20n": "DO",
    "20c": "MD",
    "24c": "GT",
}

_CLASSES = {"n": "[0-9]", "a": "[A-Z]", "c": "[A-Z0-9]"}


def _expression(structure: str, separator: str) -> str:
    parts = re.findall(r"([0-9]+)([nac])", structure)
    return "".join(f"(?:{separator}{_CLASSES[kind]}){{{length}}}" for length, kind in parts)


def bban_expressions(separator: str) -> dict[str, str]:
    """Country code -> expression of its BBAN, with an optional `separator` before each character."""
    return {
        country: _expression(structure, separator)
        for structure, countries in _COUNTRIES_BY_STRUCTURE.items()
        for country in countries.split()
    }
