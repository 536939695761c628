"""How the pieces of a request are put together to be searched, so that no seam between them hides a value.

Each piece is read as lines of its own; all of them again with nothing between; and every second one with
nothing between, because the turns of one speaker stand so.
"""

from collections.abc import Sequence

# How far a value that is split over two pieces can reach into each of them.
_REACH = 4_096
_WHOLE = 2 * _REACH


def joined(pieces: Sequence[str]) -> str:
    """All readings of `pieces`, a line end between them; of long texts only the ends are joined."""
    text = "\n".join(pieces)
    if len(pieces) < 2:
        return text
    near = [_ends(piece) for piece in pieces] if len(text) > _WHOLE else pieces
    if len(pieces) == 2:
        return f"{text}\n\n{''.join(near)}"
    return f"{text}\n\n{''.join(near)}\n\n{''.join(near[::2])}\n\n{''.join(near[1::2])}"


def joined_to_trigger(pieces: Sequence[str], seam: int | None) -> str:
    """What triggers are looked for in: a match that is not within a piece is where two meet.

    So of the other readings only what lies within `seam` characters of one matters; with None, nobody knows
    how near. Each cut is the end of a line.
    """
    if seam is None:
        return joined(pieces)
    text = "\n".join(pieces)
    if len(pieces) < 2:
        return text
    if len(pieces) == 2:
        return f"{text}\n\n{pieces[0][-seam:]}{pieces[1][:seam]}"
    near = [p if len(p) <= 2 * seam else f"{p[:seam]}\n{p[-seam:]}" for p in pieces]
    return f"{text}\n\n{''.join(near)}\n\n{''.join(near[::2])}\n\n{''.join(near[1::2])}"


def encoded(text: str) -> bytes:
    """`text` in UTF-8, with half surrogates, which JSON can spell."""
    try:
        return text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogatepass")


def _ends(piece: str) -> str:
    return piece if len(piece) <= _WHOLE else f"{piece[:_REACH]}\n{piece[-_REACH:]}"
