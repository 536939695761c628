"""Check digits. Each function takes ASCII bytes without separators."""

_DIGIT_VALUES = bytes.maketrans(b"0123456789", bytes(range(10)))
_DOUBLED_VALUES = bytes.maketrans(b"0123456789", bytes((0, 2, 4, 6, 8, 1, 3, 5, 7, 9)))
_LETTER_NUMBERS = {letter: str(letter - ord("A") + 10) for letter in range(ord("A"), ord("Z") + 1)}


def luhn_holds(digits: bytes) -> bool:
    """Whether the last of `digits` is their Luhn check digit. Source: ISO/IEC 7812-1, annex B."""
    plain = digits[::-2].translate(_DIGIT_VALUES)
    doubled = digits[-2::-2].translate(_DOUBLED_VALUES)
    return (sum(plain) + sum(doubled)) % 10 == 0


def ean13_holds(digits: bytes) -> bool:
    """Whether thirteen `digits` are a barcode (EAN-13, JAN). Source: GS1 General Specifications, 7.9."""
    values = digits.translate(_DIGIT_VALUES)
    return (sum(values[::2]) + 3 * sum(values[1::2])) % 10 == 0


def iban_holds(iban: bytes) -> bool:
    """Whether an upper-case `iban`'s check digits hold. Source: ISO 13616-1, MOD 97-10 of ISO/IEC 7064."""
    if not 2 <= int(iban[2:4]) <= 98:
        return False
    rearranged = (iban[4:] + iban[:4]).decode("ascii")
    return int(rearranged.translate(_LETTER_NUMBERS)) % 97 == 1


_MY_NUMBER_WEIGHTS = (6, 5, 4, 3, 2, 7, 6, 5, 4, 3, 2)


def my_number_holds(digits: bytes) -> bool:
    """Whether the last of twelve `digits` is the check digit of an individual number.

    11 - (sum of P_n * Q_n mod 11), and 0 where that remainder is 0 or 1; P_n is the nth digit from the right
    without the check digit, Q_n is n + 1 for n <= 6 and n - 5 above. Source: Ordinance of the Ministry of
    Internal Affairs and Communications No. 85 of 2014, article 5.
    """
    values = digits.translate(_DIGIT_VALUES)
    remainder = sum(map(int.__mul__, values, _MY_NUMBER_WEIGHTS)) % 11
    return values[11] == (0 if remainder <= 1 else 11 - remainder)
