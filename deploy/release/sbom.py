"""The bill of materials of what serves, and whether each licence in it may be shipped.

    python -m deploy.release.sbom FILE

CycloneDX 1.6 as JSON, the same bytes for the same lock. Exit 1 with a line for each package that is not as
locked, or whose licence is not on the list below.
"""

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from license_expression import ExpressionError, Licensing, ParseError
from packaging.utils import canonicalize_name

from deploy.release.lock import ROOT, locked

Json = dict[str, Any]

# Each may be shipped beside Apache-2.0 code, whole and unchanged. MPL-2.0 asks that changes to its files are
# published: nobody changes them here.
ALLOWED = frozenset(
    {
        *(
            "0BSD",
            "Apache-2.0",
            "BSD-2-Clause",
            "BSD-3-Clause",
            "CNRI-Python",
            "ISC",
            "MIT",
            "MIT-0",
            "MPL-2.0",
        ),
        *("PSF-2.0", "Python-2.0", "Unlicense", "Zlib"),
    }
)
# What metadata says that is no SPDX expression.
SPELLINGS = {
    "License :: OSI Approved :: Apache Software License": "Apache-2.0",
    "License :: OSI Approved :: BSD License": "BSD-3-Clause",
    "License :: OSI Approved :: MIT License": "MIT",
    "License :: OSI Approved :: Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
}
# Their metadata says nothing that can be read; their licence file was read by a person.
READ_BY_HAND = {"ahocorasick-rs": "Apache-2.0", "protobuf": "BSD-3-Clause", "tiktoken": "MIT"}


def bill_of_materials() -> Json:
    """The packages of this environment that are locked for serving, with licences, and what needs what."""
    command = [sys.executable, "-m", "cyclonedx_py", "environment", "--output-reproducible", "--no-validate"]
    command += ["--spec-version", "1.6", "--of", "JSON", "--pyproject", str(ROOT / "pyproject.toml")]
    made = subprocess.run([*command, sys.executable], check=True, capture_output=True, text=True).stdout
    return only_locked(json.loads(made), locked())


def only_locked(document: Json, lock: Mapping[str, str]) -> Json:
    """Without what only tests and tools need."""
    kept = [component for component in document["components"] if _name(component) in lock]
    root = document["metadata"]["component"]["bom-ref"]
    references = {root, *(component["bom-ref"] for component in kept)}
    dependencies = [
        entry | {"dependsOn": [needed for needed in entry.get("dependsOn", ()) if needed in references]}
        for entry in document["dependencies"]
        if entry["ref"] in references
    ]
    return document | {"components": kept, "dependencies": dependencies}


def _name(component: Json) -> str:
    return str(canonicalize_name(component["name"]))


def problems(document: Json, lock: Mapping[str, str]) -> Iterator[str]:
    """One line for each package that is not as locked, or that may not be shipped."""
    versions = {_name(component): component["version"] for component in document["components"]}
    for name, version in lock.items():
        if versions.get(name) != version:
            yield f"{name}: {version} is locked and {versions.get(name, 'nothing')} is installed"
    for component in document["components"]:
        yield from _license_problems(_name(component), component.get("licenses", ()))


def _license_problems(name: str, stated: list[Json]) -> Iterator[str]:
    texts = list(filter(None, map(_expression, stated)))
    if name in READ_BY_HAND:
        if texts:
            yield f"{name}: its metadata has a licence now; take it from READ_BY_HAND in {__file__}"
            return
        texts = [READ_BY_HAND[name]]
    if not texts:
        yield f"{name}: no licence that can be read; read its licence file and add it to READ_BY_HAND"
    elif not all(is_allowed(text) for text in texts):
        yield f"{name}: {' and '.join(texts)} is not on the list of licences that may be shipped"


def _expression(stated: Json) -> str:
    """One entry of `licenses`, as an SPDX expression where it is known as one; empty for a mere text."""
    if "expression" in stated:
        return str(stated["expression"])
    license_ = stated["license"]
    if "text" in license_ and "id" not in license_:
        return ""
    text = str(license_.get("id") or license_.get("name"))
    return SPELLINGS.get(text, text)


def is_allowed(expression: str) -> bool:
    """Whether some way to satisfy the SPDX `expression` needs none but allowed licences."""
    licensing = Licensing()
    try:
        parsed = licensing.parse(expression)
    except (ExpressionError, ParseError):  # the second is no kind of the first
        return False
    return _holds(parsed, licensing)


def _holds(parsed: Any, licensing: Licensing) -> bool:
    if not parsed.args:
        return str(parsed) in ALLOWED
    combine = any if isinstance(parsed, licensing.OR) else all
    return combine(_holds(part, licensing) for part in parsed.args)


def write(document: Json, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=2, sort_keys=True, ensure_ascii=False) + "\n")


def main() -> None:
    document = bill_of_materials()
    found = list(problems(document, locked()))
    write(document, Path(sys.argv[1]))
    print(
        "\n".join(found)
        or f"{len(document['components'])} packages, every licence may be shipped: {sys.argv[1]}"
    )
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
