"""From settings to what is searched for in requests: detectors, allow-lists, and switches of features."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from gateway.config import detectors as schema
from gateway.config.deployments import parse_networks
from gateway.config.images import listed_hosts
from gateway.config.kinds import Section
from gateway.config.load import Loaded
from gateway.config.privacy import HOME_ZONE, Privacy
from gateway.config.problems import KeyPath
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

# Where in the file the problem is, and what it is.
Report = Callable[[KeyPath, str], None]
# The content that is no modality.
_TOKENS: Final = "tokens"
_KINDS: Final = ("regex", "words", "words_file")


class ScreeningSource(Section):
    """All that screenings are built from, with the words of files: another process builds the same from it.

    `features` are those that say something of the search, `words` those of each detector with a `words_file`.
    """

    privacy: Privacy
    features: dict[str, schema.FeatureScreening]
    words: dict[str, tuple[str, ...]]


def screening_source(loaded: Loaded, settings: Settings, report: Report) -> ScreeningSource:
    """The source in the file. A words file that cannot be read is reported, with line and path."""
    words = {}
    for name, given in settings.privacy.detectors.items():
        if given.words_file is not None and _is_own(name, given):
            try:
                words[name] = tuple(_words_of(Path(loaded.file).parent / given.words_file))
            except BadExpression as exc:
                report(("privacy", "detectors", name, "words_file"), f"cannot be used: {exc}")
    features = {
        name: schema.FeatureScreening(
            detect=feature.detect, media=feature.media, mask=feature.mask, entities=feature.entities
        )
        for name, feature in settings.features.items()
        if feature.detect or feature.mask or feature.entities is not None or _given(feature.media)
    }
    return ScreeningSource(privacy=settings.privacy, features=features, words=words)


def build_screenings(source: ScreeningSource, report: Report) -> Screenings:
    """What is searched for in each feature's requests. Every problem is reported, with its path."""
    return _Builder(source, report).build()


def rebuilt_screenings(source: bytes) -> Screenings:
    """The screenings of a ScreeningSource as JSON, of which nothing was reported. Raises ValueError."""
    problems: list[str] = []
    read = ScreeningSource.model_validate_json(source)
    screenings = build_screenings(read, lambda _path, message: problems.append(message))
    if problems:
        raise ValueError("; ".join(problems))
    return screenings


class _Builder:
    def __init__(self, source: ScreeningSource, report: Report) -> None:
        self._source = source
        self._report = report
        self._defined: dict[str, Detector] = dict(BUILT_IN)
        self._compiled: dict[frozenset[str], Detectors | None] = {}

    def build(self) -> Screenings:
        for name, given in self._source.privacy.detectors.items():
            self._define(name, given)
        everything, standard = _raises(self._source.privacy)
        return Screenings(
            self._screening(standard, schema.Media()),
            {
                name: self._screening(
                    _switched(standard, everything, feature.detect),
                    feature.media,
                    feature.mask,
                    feature.entities,
                )
                for name, feature in self._source.features.items()
            },
        )

    def _screening(
        self,
        raise_to: Mapping[str, str],
        media: schema.Media,
        mask: Sequence[str] = (),
        entities: bool | None = None,
    ) -> Screening:
        privacy = self._source.privacy
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
        given = self._source.privacy.entities
        if given is None or not (given.by_default if switched is None else switched):
            return None
        return EntityRule(given.raise_to)

    def _masking(self, names: Sequence[str]) -> Masking | None:
        detectors = self._detectors(frozenset(names))
        return None if detectors is None else Masking(detectors=detectors, home=_home(self._source.privacy))

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
            self._report(("privacy", "detectors"), str(exc))
            return None

    def _define(self, name: str, given: schema.Detector) -> None:
        path = ("privacy", "detectors", name)
        kinds = [kind for kind in _KINDS if getattr(given, kind) is not None]
        if name in BUILT_IN and kinds:
            self._report((*path, kinds[0]), "is not for a built-in detector: take another name")
        elif name not in BUILT_IN and not _is_own(name, given):
            self._report(path, "needs exactly one of regex, words and words_file")
        elif given.validator is not None and given.regex is None:
            self._report((*path, "validator"), "needs `regex`")
        elif given.words_file is None or name in self._source.words:
            self._compose(name, given, path)

    def _compose(self, name: str, given: schema.Detector, path: KeyPath) -> None:
        try:
            detector = BUILT_IN[name] if name in BUILT_IN else self._detector_of(name, given)
        except BadExpression as exc:
            kind = next(kind for kind in _KINDS if getattr(given, kind) is not None)
            self._report((*path, kind), f"cannot be used: {exc}")
            return
        for index, pattern in enumerate(given.allow_regex):
            try:
                AllowList((), (pattern,))
            except BadExpression as exc:
                self._report((*path, "allow_regex", index), f"cannot be used: {exc}")
                return
        if given.allow or given.allow_regex:
            separators = name not in BUILT_IN or name in SEPARATORS_MATTER
            detector = allowing(detector, AllowList(given.allow, given.allow_regex, separators=separators))
        self._defined[name] = detector

    def _detector_of(self, name: str, given: schema.Detector) -> Detector:
        if given.regex is not None:
            return regex_detector(given.regex, given.validator)
        return words_detector(self._source.words.get(name) or given.words or ())


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


def _is_own(name: str, given: schema.Detector) -> bool:
    """Whether it is no built-in one, and says in one way what it finds."""
    return name not in BUILT_IN and sum(getattr(given, kind) is not None for kind in _KINDS) == 1


def _raises(privacy: Privacy) -> tuple[dict[str, str], dict[str, str]]:
    """For each detector the most sensitive class that the file raises its finds to: of all, by default."""
    rank = privacy.classes.index
    everything: dict[str, str] = {}
    standard: dict[str, str] = {}
    for item in privacy.detect:
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
