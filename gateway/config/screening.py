"""From settings to what is searched for in requests: detectors, allow-lists, and switches of features."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from gateway.config import detectors as schema
from gateway.config.deployments import parse_networks
from gateway.config.images import listed_hosts
from gateway.config.load import Loaded
from gateway.config.privacy import HOME_ZONE, Privacy
from gateway.config.problems import KeyPath, Problem
from gateway.config.schema import Settings
from gateway.core.catalog import Modality
from gateway.core.remote_images import ImageRules
from gateway.core.screening import EntityRule, Masking, Screening, Screenings
from gateway.detect import BUILT_IN, SEPARATORS_MATTER, Detectors
from gateway.detect.custom import regex_detector, words_detector
from gateway.detect.detector import AllowList, Detector, allowing
from gateway.detect.engine import BadExpression
from gateway.privacy.settings import RecognizerSettings

MIB: Final = 1024 * 1024
MAX_WORDS_FILE_BYTES: Final = 4 * MIB

Report = Callable[[Problem], None]
# The content that is no modality.
_TOKENS: Final = "tokens"
_KINDS: Final = ("regex", "words", "words_file")


def build_screenings(loaded: Loaded, settings: Settings, report: Report) -> Screenings:
    """What is searched for in each feature's requests. Every problem is reported, with line and path."""
    return _Builder(loaded, settings, report).build()


class _Builder:
    def __init__(self, loaded: Loaded, settings: Settings, report: Report) -> None:
        self._loaded = loaded
        self._settings = settings
        self._report = report
        self._defined: dict[str, Detector] = dict(BUILT_IN)
        self._compiled: dict[frozenset[str], Detectors | None] = {}

    def build(self) -> Screenings:
        for name, given in self._settings.privacy.detectors.items():
            self._define(name, given)
        everything, standard = _raises(self._settings)
        return Screenings(
            self._screening(standard, schema.Media()),
            {
                name: self._screening(
                    _switched(standard, everything, feature.detect),
                    feature.media,
                    feature.mask,
                    feature.entities,
                )
                for name, feature in self._settings.features.items()
                if feature.detect or feature.mask or feature.entities is not None or _given(feature.media)
            },
        )

    def _screening(
        self,
        raise_to: Mapping[str, str],
        media: schema.Media,
        mask: Sequence[str] = (),
        entities: bool | None = None,
    ) -> Screening:
        privacy = self._settings.privacy
        content = _given(privacy.media) | _given(media)
        return Screening(
            classes=privacy.classes,
            detectors=self._detectors(frozenset((*raise_to, *mask))),
            raise_to=raise_to,
            token_ids=content.pop(_TOKENS, privacy.classes[-1]),
            media={Modality(name): to for name, to in content.items()},
            masking=self._masking(mask),
            entities=self._entities(entities),
        )

    def _entities(self, switched: bool | None) -> EntityRule | None:
        given = self._settings.privacy.entities
        if given is None or not (given.by_default if switched is None else switched):
            return None
        return EntityRule(given.raise_to)

    def _masking(self, names: Sequence[str]) -> Masking | None:
        detectors = self._detectors(frozenset(names))
        return None if detectors is None else Masking(detectors=detectors, home=_home(self._settings.privacy))

    def _detectors(self, names: frozenset[str]) -> Detectors | None:
        """One instance for each set of names: compiling costs time, and memory as long as it serves."""
        if names not in self._compiled:
            self._compiled[names] = self._compile(sorted(names & self._defined.keys()))
        return self._compiled[names]

    def _compile(self, names: list[str]) -> Detectors | None:
        if not names:
            return None
        try:
            return Detectors(names, self._defined)
        except BadExpression as exc:
            self._report_problem(("privacy", "detectors"), str(exc))
            return None

    def _define(self, name: str, given: schema.Detector) -> None:
        path = ("privacy", "detectors", name)
        kinds = [kind for kind in _KINDS if getattr(given, kind) is not None]
        if name in BUILT_IN and kinds:
            self._report_problem((*path, kinds[0]), "is not for a built-in detector: take another name")
        elif name not in BUILT_IN and len(kinds) != 1:
            self._report_problem(path, "needs exactly one of regex, words and words_file")
        elif given.validator is not None and given.regex is None:
            self._report_problem((*path, "validator"), "needs `regex`")
        else:
            self._compose(name, given, path)

    def _compose(self, name: str, given: schema.Detector, path: KeyPath) -> None:
        try:
            detector = BUILT_IN[name] if name in BUILT_IN else self._detector_of(given, path)
        except BadExpression as exc:
            kind = next(kind for kind in _KINDS if getattr(given, kind) is not None)
            self._report_problem((*path, kind), f"cannot be used: {exc}")
            return
        for index, pattern in enumerate(given.allow_regex):
            try:
                AllowList((), (pattern,))
            except BadExpression as exc:
                self._report_problem((*path, "allow_regex", index), f"cannot be used: {exc}")
                return
        if given.allow or given.allow_regex:
            separators = name not in BUILT_IN or name in SEPARATORS_MATTER
            detector = allowing(detector, AllowList(given.allow, given.allow_regex, separators=separators))
        self._defined[name] = detector

    def _detector_of(self, given: schema.Detector, path: KeyPath) -> Detector:
        if given.regex is not None:
            return regex_detector(given.regex, given.validator)
        if given.words_file is not None:
            return words_detector(_words_of(Path(self._loaded.file).parent / given.words_file))
        return words_detector(given.words or ())

    def _report_problem(self, path: KeyPath, message: str) -> None:
        self._report(self._loaded.problem(path, message))


def _words_of(path: Path) -> list[str]:
    """The lines of a text file without comments. Raises BadExpression when it cannot be read."""
    try:
        with path.open("rb") as stream:
            content = stream.read(MAX_WORDS_FILE_BYTES + 1)
    except OSError as exc:
        raise BadExpression(f"{path} cannot be read: {exc.strerror}") from exc
    if len(content) > MAX_WORDS_FILE_BYTES:
        raise BadExpression(f"{path} is larger than {MAX_WORDS_FILE_BYTES // 2**20} MiB")
    try:
        lines = content.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as exc:
        line = content.count(b"\n", 0, exc.start) + 1
        raise BadExpression(f"{path}:{line} is not UTF-8") from exc
    return [line for line in lines if not line.lstrip().startswith("#")]


def _raises(settings: Settings) -> tuple[dict[str, str], dict[str, str]]:
    """For each detector the most sensitive class that the file raises its finds to: of all, by default."""
    rank = settings.privacy.classes.index
    everything: dict[str, str] = {}
    standard: dict[str, str] = {}
    for item in settings.privacy.detect:
        for name in item.find:
            for found in (everything, standard) if item.by_default else (everything,):
                found[name] = max(found.get(name, item.raise_to), item.raise_to, key=rank)
    return everything, standard


def _switched(
    standard: Mapping[str, str], everything: Mapping[str, str], switches: Mapping[str, bool]
) -> dict[str, str]:
    """`standard` with the detectors of a feature switched on and off."""
    kept = {name: to for name, to in standard.items() if switches.get(name, True)}
    return kept | {name: everything[name] for name, on in switches.items() if on}


def _home(privacy: Privacy) -> dict[str, frozenset[str]]:
    """Our own zones among those of each class: `local`, and what the most sensitive class may reach."""
    own = {HOME_ZONE, *privacy.zones[privacy.classes[-1]]}
    return {name: frozenset(own.intersection(zones)) for name, zones in privacy.zones.items()}


def image_rules(settings: Settings) -> ImageRules | None:
    """Which images the gateway fetches itself; None for none."""
    given = settings.privacy.images
    if given is None:
        return None
    return ImageRules(
        zone=given.zone,
        networks=parse_networks(settings.zones[given.zone].cidrs),
        hosts=listed_hosts(given.hosts),
        max_bytes=given.max_mib * MIB,
        max_images=given.max_images,
        deadline_seconds=given.deadline_ms / 1000,
    )


def recognizer_settings(settings: Settings) -> RecognizerSettings | None:
    """What the second stage runs; None when no feature asks for it."""
    given = settings.privacy.entities
    if given is None:
        return None
    if not given.by_default and not any(feature.entities for feature in settings.features.values()):
        return None
    return RecognizerSettings(
        find=given.find,
        language=given.language,
        model=given.model,
        min_score=float(given.min_score),
        deadline_seconds=given.deadline_ms / 1000,
        queue=given.queue,
        command=given.command,
    )


def _given(media: schema.Media) -> dict[str, str]:
    given: dict[str, str] = media.model_dump(exclude_none=True)
    return given
