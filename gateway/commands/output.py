"""Decisions and test outcomes in words, and test outcomes as JUnit XML."""

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING
from xml.etree import ElementTree as Xml  # only written, never read

if TYPE_CHECKING:
    from gateway.policy.explain import CandidateVerdict, Explanation
    from gateway.policy.policy_tests import PolicyTestOutcome
    from gateway.policy.proof.results import Hole, Proof


def in_words(found: "Explanation") -> list[str]:
    """The lines that explain a decision."""
    who = [f"key {found.key}" if found.key else "no key in particular"]
    who += [f"feature {found.feature}"] if found.feature else []
    who += [f"team {found.team}"] if found.team else []
    lines = [f"Model {found.model} asked by {', '.join(who)}; policy {found.policy}."]
    if found.privacy is not None:
        lines.append(f"Privacy class {found.privacy.privacy}, from {found.privacy.raised_by}.")
        rule = found.rule
        lines.append(
            "No rule holds." if rule is None else f"Rule {rule.number} (line {rule.line}): {rule.when}"
        )
    if found.candidates:
        lines += ["", *_table([_row(item) for item in found.candidates]), ""]
    if found.refused is not None:
        refused = found.refused
        return [*lines, f"Refused with {refused.status} {refused.code}: {refused.message}"]
    return [*lines, f"Order: {', '.join(found.order)}. Decision: {found.decision}."]


def _row(item: "CandidateVerdict") -> tuple[str, ...]:
    return (
        item.deployment,
        "kept" if item.kept else "removed",
        "" if item.line is None else f"line {item.line}",
        f"about ${item.estimated_cost_usd:.6f}",
        item.reason,
    )


def _table(rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def of_outcome(outcome: "PolicyTestOutcome") -> list[str]:
    """How a test went: one when it passed, and the whole decision when it did not."""
    located = outcome.located
    where = f"{located.file}:{located.line}: {located.test.name}"
    if not outcome.failures:
        return [f"ok    {where}"]
    lines = [f"FAIL  {where}"]
    for failure in outcome.failures:
        lines += [f"      expected  {failure.expected}", f"      got       {failure.found}"]
    why = in_words(outcome.failures[0].explanation)
    return [*lines, "      why", *(f"        {line}" if line else "" for line in why)]


def of_proof(proof: "Proof", file: str) -> list[str]:
    """What was proven, or what stands against it."""
    lines = [line for hole in proof.holes for line in _of_hole(hole, file)]
    for title, rules in (
        ("can never hold", proof.unreachable_rules),
        ("never decides", proof.shadowed_rules),
        ("only refuses", proof.dead_ends),
    ):
        lines += [
            f"{file}:{item.line}: rule {item.rule} of {item.model} {title}: {item.reason}" for item in rules
        ]
    lines += [
        f"{file}: {f'feature {item.feature} can never' if item.feature else 'no feature can ever'} use model "
        f"{item.model}: {item.reason}"
        for item in proof.unusable_models
        if not item.on_purpose
    ]
    if proof.proven:
        looked = f"{proof.cases:,} plans in {proof.seconds:.1f} s"
        return [*lines, f"{file}: proven: no class reaches a zone that it must not ({looked})."]
    return [*lines, f"{file}: NOT PROVEN: {len(proof.holes)} way(s) into a forbidden zone."]


def _of_hole(hole: "Hole", file: str) -> list[str]:
    where = file if hole.line is None else f"{file}:{hole.line}"
    return [
        f"{where}: a request of class {hole.privacy} can reach {hole.deployment} in zone {hole.zone}",
        f"  path     {hole.path}",
        f"  key      {hole.key or '(any)'}, feature {hole.feature or '(any)'}",
        *(f"  header   {name}: {value}" for name, value in hole.request["headers"].items()),
        f"  body     {json.dumps(hole.request['body'])}",
    ]


def junit(outcomes: Sequence["PolicyTestOutcome"]) -> bytes:
    """The outcomes as JUnit XML, a suite for each file."""
    root = Xml.Element("testsuites", name="tollway policy tests")
    for file in dict.fromkeys(outcome.located.file for outcome in outcomes):
        of_file = [outcome for outcome in outcomes if outcome.located.file == file]
        suite = Xml.SubElement(root, "testsuite", name=file, tests=str(len(of_file)))
        suite.set("failures", str(sum(bool(outcome.failures) for outcome in of_file)))
        suite.set("errors", "0")
        suite.set("time", f"{sum(outcome.seconds for outcome in of_file):.3f}")
        for outcome in of_file:
            _add_case(suite, outcome)
    Xml.indent(root)
    return bytes(Xml.tostring(root, encoding="utf-8", xml_declaration=True)) + b"\n"


def _add_case(suite: Xml.Element, outcome: "PolicyTestOutcome") -> None:
    located = outcome.located
    case = Xml.SubElement(suite, "testcase", classname=located.file, name=located.test.name)
    case.set("time", f"{outcome.seconds:.3f}")
    case.set("file", located.file)
    case.set("line", str(located.line))
    if outcome.failures:
        first = outcome.failures[0]
        failure = Xml.SubElement(case, "failure", type="PolicyTestFailure")
        failure.set("message", f"expected {first.expected}, found {first.found}")
        failure.text = "\n".join(of_outcome(outcome))
