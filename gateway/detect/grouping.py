"""What may stand between the groups of a number, and the triggers for numbers in groups."""

# Up to eight characters of white space and punctuation: the cells of a table, the values of a list in JSON or
# CSV, Markdown. A single dot is a decimal point more often, and belongs to those that follow.
_SIGNS = "\t\r\n \"'`,;:|/\\+*_=-(){}[]<>#&"
LOOSE = "[" + "".join(rf"\x{ord(sign):02x}" for sign in _SIGNS) + "]{1,8}"
LOOSE_OR_NONE = LOOSE.replace("{1,8}", "{0,8}").replace("[", "[.", 1)
_TO_SPACE = bytes.maketrans(_SIGNS.encode(), b" " * len(_SIGNS))
# What people write in numbers.
TIGHT = r"[ .\-]"

DIGITS_TRIGGER = rf"[0-9](?:{TIGHT}{{0,3}}[0-9]){{11}}"
# Three groups of four; four, six and more; single digits.
LOOSE_TRIGGER = (
    rf"[0-9]{{4}}(?:{LOOSE}[0-9]{{4}}{LOOSE}[0-9]{{3}}|{LOOSE}[0-9]{{6}}{LOOSE}[0-9]{{4}})|"
    rf"[0-9](?:{LOOSE.replace('{1,8}', '{1,2}')}[0-9]){{11}}"
)


def with_single_spaces(text: bytes) -> bytes:
    """`text` with one space for each run of white space and of the punctuation of LOOSE."""
    spaced = text.translate(_TO_SPACE)
    while b"  " in spaced:
        spaced = spaced.replace(b"  ", b" ")
    return spaced
