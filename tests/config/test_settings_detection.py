"""What a file can say about detection, and what is said when it cannot be meant."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from gateway.config.build import build
from gateway.config.load import Loaded
from gateway.config.screening import image_rules
from gateway.core.catalog import Modality
from gateway.core.screening import Screenings
from gateway.finance.price_catalogue import PriceCatalogue
from gateway.privacy.vocabularies import ENCODINGS

Changed = Callable[[str, str], Loaded]
Read = Callable[[str], Loaded]
DETECT = "    - {find: [email, credit_card, iban, jp_my_number, us_ssn, secret], raise_to: confidential}\n"
FEATURE = "privacy: internal, budgets"


def problems(loaded: Loaded) -> list[str]:
    found = loaded.errors or build(loaded, PriceCatalogue())[1]
    return [str(problem) for problem in found]


def screenings(loaded: Loaded) -> Screenings:
    made, found = build(loaded, PriceCatalogue())
    assert made is not None, [str(problem) for problem in found]
    return made.screenings


def defined(changed: Changed, detectors: str, find: str = "mine") -> Loaded:
    more = f"    - {{find: [{find}], raise_to: restricted}}\n  detectors:\n"
    return changed(DETECT, DETECT + more + "".join(f"    {line}\n" for line in detectors.splitlines()))


def test_a_detector_of_ones_own_is_used_like_a_built_in_one(changed: Changed) -> None:
    loaded = defined(changed, "mine: {regex: 'E[0-9]{6}', allow: [E000000]}")
    screening = screenings(loaded).standard
    assert screening.detectors is not None
    assert screening.raise_to["mine"] == "restricted"
    assert screening.detectors.scan(["badge E123456"]) == {"mine"}
    assert screening.detectors.scan(["badge E000000"]) == frozenset()


def test_words_come_from_the_list_or_from_a_file_beside_the_configuration(
    changed: Changed, tmp_path: Path
) -> None:
    (tmp_path / "names.txt").write_text("# our projects\nBluebird\n\nカワセミ計画\n")
    loaded = defined(changed, "mine: {words: [Kestrel]}\nothers: {words_file: names.txt}", "mine, others")
    detectors = screenings(loaded).standard.detectors
    assert detectors is not None
    assert detectors.scan(["kestrel and bluebird"]) == {"mine", "others"}
    assert detectors.scan(["our projects"]) == frozenset()


def test_a_built_in_detector_takes_an_allow_list(changed: Changed) -> None:
    loaded = defined(changed, "email: {allow: [help@example.com], allow_regex: ['.*@ours.example']}", "email")
    detectors = screenings(loaded).standard.detectors
    assert detectors is not None
    assert detectors.scan(["help@example.com, a@ours.example"]) == frozenset()


def test_a_feature_switches_detectors_off_and_on(changed: Changed, read: Read) -> None:
    text = changed(FEATURE, "privacy: internal, detect: {email: false, iban: true, mine: true}, budgets").text
    more = (
        "    - {find: [mine], raise_to: restricted, by_default: false}\n"
        "  detectors: {mine: {regex: 'E[0-9]+'}}\n"
    )
    found = screenings(read(text.replace(DETECT, DETECT + more)))
    own = found.of("literature-triage")
    assert "mine" not in found.standard.raise_to
    assert "email" in found.standard.raise_to
    assert own.raise_to.get("mine") == "restricted"
    assert "email" not in own.raise_to
    assert own.raise_to["iban"] == "confidential"
    assert own.detectors is not None
    assert own.detectors.scan(["E1 bob@example.com"]) == {"mine"}


def test_media_count_as_what_the_feature_says_before_what_all_say(changed: Changed, read: Read) -> None:
    for_all = changed(DETECT, DETECT + "  media: {image: public, audio: confidential}\n").text
    of_one = "privacy: internal, media: {image: internal}, budgets"
    found = screenings(read(for_all.replace(FEATURE, of_one)))
    own = found.of("literature-triage")
    assert found.standard.media_class(Modality.IMAGE) == "public"
    assert own.media_class(Modality.IMAGE) == "internal"
    assert own.media_class(Modality.AUDIO) == "confidential"
    assert own.media_class(Modality.VIDEO) == "restricted"


@pytest.mark.parametrize(
    ("detectors", "said"),
    [
        ("mine: {regex: '('}", "tollway.yaml:24: privacy.detectors.mine.regex: cannot be used: missing )"),
        ("mine: {regex: 'a*'}", "mine.regex: cannot be used: it matches the empty text"),
        ("mine: {regex: a, words: [b]}", "mine: needs exactly one of regex, words and words_file"),
        ("mine: {allow: [b]}", "mine: needs exactly one of regex, words and words_file"),
        ("mine: {words: [b], validator: luhn}", "mine.validator: needs `regex`"),
        ("mine: {regex: a, validator: lun}", "mine.validator: must be luhn, iban, ean13 or my_number"),
        ("mine: {words_file: nowhere.txt}", "mine.words_file: cannot be used: nowhere.txt cannot be read"),
        ("mine: {words: ['  ']}", "mine.words[0]: must not be empty"),
        ("mine: {regex: a, allow_regex: [b, '[']}", "mine.allow_regex[1]: cannot be used: missing ]"),
        ("mine: {words: [a, a]}", "mine.words[1]: is listed twice"),
        ("email: {regex: a}\nmine: {regex: b}", "email.regex: is not for a built-in detector"),
        ("your: {regex: a}", "no detector is called 'mine'"),
    ],
)
def test_what_cannot_be_used_is_said_with_its_line(changed: Changed, detectors: str, said: str) -> None:
    [problem] = problems(defined(changed, detectors))
    assert said in problem
    assert problem.startswith("tollway.yaml:2")


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("detect: {emial: false}", "no detector is called 'emial'; did you mean 'email'?"),
        ("detect: {email: maybe}", "must be true or false"),
        ("media: {image: secret}", "no privacy class is called 'secret'"),
        ("media: {picture: internal}", "unknown key"),
    ],
)
def test_a_feature_that_names_what_there_is_not(changed: Changed, setting: str, said: str) -> None:
    [problem] = problems(changed(FEATURE, f"privacy: internal, {setting}, budgets"))
    assert said in problem


def test_a_switch_for_a_detector_that_raises_to_nothing(changed: Changed, read: Read) -> None:
    text = changed(DETECT, "    - {find: [email], raise_to: confidential}\n").text
    switched = "privacy: internal, detect: {iban: true}, budgets"
    [problem] = problems(read(text.replace(FEATURE, switched)))
    assert "nothing says what its finds raise to: list it in privacy.detect" in problem


def test_a_feature_that_asks_for_a_second_stage_that_is_not_there(changed: Changed) -> None:
    [problem] = problems(changed(FEATURE, "privacy: internal, entities: true, budgets"))
    assert "there is no second stage: add privacy.entities" in problem


def test_a_second_stage_raises_to_a_class_there_is(changed: Changed) -> None:
    [problem] = problems(changed(DETECT, DETECT + "  entities: {find: [PERSON], raise_to: secret}\n"))
    assert "no privacy class is called 'secret'" in problem


def test_a_mask_names_detectors(changed: Changed) -> None:
    [problem] = problems(changed(FEATURE, "privacy: internal, mask: [emial], budgets"))
    assert "no detector is called 'emial'; did you mean 'email'?" in problem


def test_a_masked_detector_need_not_raise_anything(changed: Changed, read: Read) -> None:
    text = changed(DETECT, "    - {find: [email], raise_to: confidential}\n").text
    masking = "privacy: internal, mask: [iban], budgets"
    found = screenings(read(text.replace(FEATURE, masking))).of("literature-triage")
    assert found.masking is not None
    assert found.masking.detectors.names == ("iban",)
    assert found.masking.home["internal"] == {"local"}
    assert found.raise_to.keys() == {"email"}
    assert found.detectors is not None
    assert set(found.detectors.names) == {"email", "iban"}


def test_token_ids_count_as_what_the_file_says_of_them(changed: Changed) -> None:
    loaded = changed(DETECT, DETECT + "  media: {image: internal, tokens: confidential}\n")
    screening = screenings(loaded).standard
    assert (screening.token_class, dict(screening.media)) == ("confidential", {Modality.IMAGE: "internal"})
    of_feature = screenings(changed(FEATURE, f"media: {{tokens: internal}}, {FEATURE}"))
    assert of_feature.standard.token_class == "restricted"
    assert {item.token_class for item in of_feature.by_feature.values()} == {"internal"}


SCOUT = "    model: meta-llama/Llama-4-Scout-17B-16E-Instruct\n"


@pytest.mark.parametrize("tokenizer", ["o200k_base", "tokenizer.json"])
def test_a_deployment_may_name_its_tokenizer(tokenizer: str, changed: Changed) -> None:
    loaded = changed(SCOUT, f"{SCOUT}    tokenizer: {tokenizer}\n")
    folder = Path(loaded.file).parent
    vocabulary = {"model": {"vocab": {"a": 0}}, "decoder": {"type": "ByteLevel"}}
    (folder / "tokenizer.json").write_text(json.dumps(vocabulary))
    made, found = build(loaded, PriceCatalogue())
    assert made is not None, found
    [read_by] = {item.tokenizer for item in made.policy.deployments.values() if item.tokenizer}
    assert read_by == (tokenizer if tokenizer in ENCODINGS else str(folder / tokenizer))


def test_a_tokenizer_that_cannot_be_read_is_refused(changed: Changed) -> None:
    [problem] = problems(changed(SCOUT, f"{SCOUT}    tokenizer: cl100k\n"))
    assert "tokenizer: cannot be used" in problem
    assert "Expected a tokenizer.json or one of cl100k_base, o200k_base, p50k_base" in problem


def images(changed: Changed, section: str) -> Loaded:
    return changed(DETECT, f"{DETECT}  images: {{fetch: inline, {section}}}\n")


def test_hosts_of_images_mean_the_usual_ports(changed: Changed) -> None:
    loaded = images(changed, "zone: external, hosts: [IMG.example.com, '*.cdn.example.com', 'store:8443']")
    made, found = build(loaded, PriceCatalogue())
    assert made is not None, found
    rules = image_rules(made.settings)
    assert rules is not None
    assert (rules.networks, rules.max_bytes, rules.max_images) == (None, 10 * 1024 * 1024, 10)
    assert rules.hosts == {
        "img.example.com:443",
        "img.example.com:80",
        "*.cdn.example.com:443",
        "*.cdn.example.com:80",
        "store:8443",
    }


@pytest.mark.parametrize(
    ("section", "why"),
    [
        ("zone: external, hosts: []", "hosts"),
        ("zone: external, hosts: ['*']", "must be a host such as"),
        ("zone: external, hosts: ['*.com']", "must name a domain of one's own"),
        ("zone: external, hosts: ['https://img.example.com/']", "must be a host such as"),
        ("zone: external, hosts: ['img.example.com:99999']", "must be a host such as"),
        ("zone: extern, hosts: [img.example.com]", "privacy.images.zone"),
        ("zone: external", "privacy.images.hosts"),
        ("zone: external, hosts: [img.example.com], max_images: 0", "privacy.images.max_images"),
    ],
)
def test_a_section_of_images_that_cannot_be_meant_is_refused(
    section: str, why: str, changed: Changed
) -> None:
    assert why in "\n".join(problems(images(changed, section)))
