"""What `requirements.txt` locks: the packages that a gateway consists of."""

from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
LOCK = ROOT / "requirements.txt"


def locked(path: Path = LOCK) -> dict[str, str]:
    """The version of each package that this platform needs, by its canonical name."""
    found = {}
    for line in path.read_text().splitlines():
        text = line.removesuffix("\\").strip()
        if not text or text.startswith(("#", "--hash")):
            continue
        requirement = Requirement(text)
        if requirement.marker is None or requirement.marker.evaluate():
            [specifier] = requirement.specifier
            found[canonicalize_name(requirement.name)] = specifier.version
    return found
