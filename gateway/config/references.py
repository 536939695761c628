"""Every name in the file that must be the name of something else in it."""

from collections.abc import Callable
from dataclasses import dataclass

from gateway.config.kinds import exact_number
from gateway.config.nodes import ConfigNode
from gateway.config.privacy import STANDARD_CLASSES
from gateway.config.problem_report import ProblemReport
from gateway.config.problems import did_you_mean
from gateway.detect import DETECTOR_NAMES

Check = Callable[[ConfigNode, ProblemReport], None]


@dataclass(frozen=True, slots=True)
class Names:
    """The names that are declared for one kind of thing. `declared` None: the declaration itself is broken.

    `shown`: those that messages may show; the others come from the environment.
    """

    kind: str
    declared: frozenset[str] | None
    shown: frozenset[str]

    def require(self, node: ConfigNode, report: ProblemReport) -> None:
        """Reports `node` unless it holds a declared name (or holds no name at all, which others report)."""
        if node.text is None or self.declared is None or node.text in self.declared:
            return
        named = f"is called {node.quoted}" if node.is_literal else "has this name"
        report.error(node, f"no {self.kind} {named}{node.hint(self.shown)}")

    def lacks(self, name: str) -> bool:
        return self.declared is not None and name not in self.declared


def names_of(root: ConfigNode, section: str, kind: str) -> Names:
    """The keys of `section`."""
    node = root[section]
    declared = frozenset(node.keys())
    return Names(kind, declared if node.is_mapping or not node.exists else None, declared)


def classes_of(root: ConfigNode) -> Names:
    """The privacy classes, declared or standard."""
    node = root["privacy"]["classes"]
    if not node.exists:
        return Names("privacy class", frozenset(STANDARD_CLASSES), frozenset(STANDARD_CLASSES))
    return Names("privacy class", frozenset(node.texts()) or None, node.literals())


def detectors_of(root: ConfigNode) -> Names:
    """The detectors, built-in or declared."""
    node = root["privacy"]["detectors"]
    declared = frozenset(DETECTOR_NAMES) | frozenset(node.keys())
    return Names("detector", declared if node.is_mapping or not node.exists else None, declared)


def check_privacy(root: ConfigNode, report: ProblemReport) -> None:
    privacy = root["privacy"]
    classes = classes_of(root)
    zones = names_of(root, "zones", "zone")
    for allowed in root.find("privacy.zones.*.*"):
        zones.require(allowed, report)
    _check_detection(root, classes, report)
    zones.require(privacy["images"]["zone"], report)
    classes.require(privacy["default"], report)
    if privacy.exists and not privacy["default"].exists and classes.lacks("internal"):
        report.error(privacy, "default is required when no class is called internal: name one of `classes`")
    _check_each_class_has_zones(privacy, classes, report)


def _check_detection(root: ConfigNode, classes: Names, report: ProblemReport) -> None:
    privacy = root["privacy"]
    detectors = detectors_of(root)
    for detection in privacy["detect"].items():
        classes.require(detection["raise_to"], report)
        for name in detection["find"].items():
            detectors.require(name, report)
    classes.require(privacy["entities"]["raise_to"], report)
    for node in root.find("features.*.entities"):
        if node.text == "true" and not privacy["entities"].exists:
            report.error(node, "there is no second stage: add privacy.entities")
    for node in root.find("features.*.mask.*"):
        detectors.require(node, report)
    for pattern in ("privacy.media.*", "features.*.media.*"):
        for node in root.find(pattern):
            classes.require(node, report)
    found = {item.text for detection in privacy["detect"].items() for item in detection["find"].items()}
    for switches in root.find("features.*.detect"):
        for switched, node in switches.entries():
            if detectors.lacks(switched):
                near = did_you_mean(switched, sorted(detectors.shown))
                report.error(node, f"no detector is called {switched!r}{f'; {near}' if near else ''}")
            elif switched not in found and None not in found:
                report.error(node, "nothing says what its finds raise to: list it in privacy.detect")


def _check_each_class_has_zones(privacy: ConfigNode, classes: Names, report: ProblemReport) -> None:
    zones = privacy["zones"]
    if classes.declared is None or not zones.is_mapping:
        return
    for name, entry in zones.entries():
        if name not in classes.declared:
            report.error(entry, "no privacy class has this name: add it to privacy.classes")
    given = {item.text or "": item.raw for item in privacy["classes"].items()}
    for name, shown in (given or {name: name for name in STANDARD_CLASSES}).items():
        if name not in zones:
            report.error(zones, f"has no entry for the class {shown}: list its zones, or [] for none")


def check_deployments(root: ConfigNode, report: ProblemReport) -> None:
    zones = names_of(root, "zones", "zone")
    deployments = names_of(root, "deployments", "deployment")
    models = names_of(root, "models", "model")
    for name, deployment in root["deployments"].entries():
        zones.require(deployment["zone"], report)
        successor = deployment["successor"]
        if successor.text == name:
            report.error(successor, "is the deployment itself: name another one")
        elif deployments.lacks(successor.text or "") and models.lacks(successor.text or ""):
            _either(deployments, models).require(successor, report)
    _check_successors_end(root["deployments"], report)


def _either(first: Names, second: Names) -> Names:
    known = first.declared is not None and second.declared is not None
    declared = (first.declared or frozenset()) | (second.declared or frozenset())
    return Names(f"{first.kind} or {second.kind}", declared if known else None, first.shown | second.shown)


def _check_successors_end(deployments: ConfigNode, report: ProblemReport) -> None:
    """A chain of successors must end; each circle is reported once, where it is entered first."""
    follows = {name: node["successor"].text for name, node in deployments.entries()}
    seen: set[str] = set()
    for start in follows:
        chain: list[str] = []
        name: str | None = start
        while name in follows and name not in seen:
            seen.add(name)
            chain.append(name)
            name = follows[name]
        if name in chain and len(chain[chain.index(name) :]) > 1:
            circle = chain[chain.index(name) :]
            report.error(deployments[circle[0]]["successor"], f"is a circle: {' -> '.join([*circle, name])}")


def check_models(root: ConfigNode, report: ProblemReport) -> None:
    deployments = names_of(root, "deployments", "deployment")
    for name, model in root["models"].entries():
        for used in model["use"].items():
            deployments.require(used, report)
        for rule in model["rules"].items():
            _check_rule_narrows(name, model, rule, report)
            _check_rule_decides(rule, report)
            _check_weights(rule, "the rule's", report)
        _check_weights(model, "the model's", report)
        _check_quality(model, report)


def _check_rule_narrows(name: str, model: ConfigNode, rule: ConfigNode, report: ProblemReport) -> None:
    whole = model["use"].texts()
    for used in rule["use"].items():
        if used.text is not None and whole and used.text not in whole:
            hint = used.hint(model["use"].literals())
            report.error(used, f"a rule can only narrow: {used.quoted} is not in models.{name}.use{hint}")


def _check_rule_decides(rule: ConfigNode, report: ProblemReport) -> None:
    if not rule.is_mapping:
        return
    refuses, uses = rule["refuse"].exists, any(rule["use"].items())
    if refuses and rule["use"].exists:
        report.error(rule["use"], "cannot be combined with refuse: a rule refuses or names what remains")
    elif not refuses and not uses and (not rule["use"].exists or rule["use"].is_list):
        report.error(rule["use"], "must not be empty: name the deployments that remain, or write refuse")
    for key in ("prefer", "weights", "sticky"):
        if refuses and rule[key].exists:
            report.error(rule[key], "has no effect in a rule that refuses")


def _check_quality(model: ConfigNode, report: ProblemReport) -> None:
    quality, used = model["quality"], model["use"].texts()
    ruled = any(rule["prefer"].text == "quality" for rule in model["rules"].items())
    if model["prefer"].text != "quality" and not ruled:
        if quality.exists:
            report.error(quality, "is only used with prefer: quality")
        return
    for name, rating in quality.entries():
        if used and name not in used:
            report.error(rating, "is not in the model's `use`")
    missing = [item.raw for item in model["use"].items() if item.text and item.text not in quality]
    if missing and (quality.is_mapping or not quality.exists):
        report.error(quality, f"has no rating for {', '.join(missing)}: give one for each of `use`")


def _check_weights(owner: ConfigNode, whose: str, report: ProblemReport) -> None:
    """`owner` is a model or a rule."""
    weights, used = owner["weights"], owner["use"].texts()
    prefer = owner["prefer"].text
    if prefer != "weights":
        if prefer is not None or not owner["prefer"].exists:
            for node in (weights, owner["sticky"]):
                if node.exists and node.text != "false":
                    report.error(node, "is only used with prefer: weights")
        return
    for name, weight in weights.entries():
        if used and name not in used:
            report.error(weight, f"is not in {whose} `use`")
    missing = [item.raw for item in owner["use"].items() if item.text and item.text not in weights]
    if missing and (weights.is_mapping or not weights.exists):
        report.error(weights, f"has no weight for {', '.join(missing)}: give one for each of `use`")
    if weights.keys() and all(exact_number(weight.text) == 0 for _, weight in weights.entries()):
        report.error(weights, "has no weight above 0")


def check_tenancy(root: ConfigNode, report: ProblemReport) -> None:
    classes = classes_of(root)
    teams = names_of(root, "teams", "team")
    features = names_of(root, "features", "feature")
    models = names_of(root, "models", "model")
    for pattern, names in (
        ("features.*.team", teams),
        ("features.*.privacy", classes),
        ("keys.*.feature", features),
        ("keys.*.features.*", features),
        ("keys.*.models.*", models),
        ("keys.*.privacy", classes),
    ):
        for node in root.find(pattern):
            names.require(node, report)


def check_policy_tests(root: ConfigNode, report: ProblemReport, tests: ConfigNode | None = None) -> None:
    """The names in the policy tests of `root`, or in those of another file, `tests`."""
    tests = tests or root
    deployments = names_of(root, "deployments", "deployment")
    for pattern, names in (
        ("request.model", names_of(root, "models", "model")),
        ("request.feature", names_of(root, "features", "feature")),
        ("request.key", names_of(root, "keys", "key")),
        ("request.privacy", classes_of(root)),
        ("request.down.*", deployments),
        ("expect.deployment", deployments),
        ("expect.order.*", deployments),
        ("expect.never.*", deployments),
        ("expect.privacy", classes_of(root)),
        ("expect.zone", names_of(root, "zones", "zone")),
    ):
        for node in tests.find(f"policy_tests.*.{pattern}"):
            names.require(node, report)
    for test in tests["policy_tests"].items():
        for name, count in test["request"]["outstanding"].entries():
            if deployments.lacks(name):
                report.error(count, "no deployment has this name")
        if test["expect"].is_mapping and not test["expect"].keys():
            report.error(test["expect"], "expects nothing: name what must come out, such as deployment")


CHECKS: tuple[Check, ...] = (
    check_privacy,
    check_deployments,
    check_models,
    check_tenancy,
    check_policy_tests,
)
