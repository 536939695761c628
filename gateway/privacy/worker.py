"""The built-in recogniser: Microsoft Presidio on a spaCy pipeline. `pip install tollway[ner]` and a model.

Run by the gateway as a process of its own: reads frames from its standard input, answers on its output.
Needs no network: a model that is not installed is an error, not a download.
"""

import json
import sys
from typing import Any, BinaryIO

import msgspec

from gateway.privacy.frames import RecognizeReply, RecognizeRequest, framed

_LENGTH_BYTES = 4


def main() -> None:
    options = json.loads(sys.argv[1])
    source, sink = sys.stdin.buffer, sys.stdout.buffer
    sys.stdout = sys.stderr  # whatever prints must not print into the frames
    try:
        analyzer = _analyzer(options["language"], options["model"])
    except (ImportError, OSError, ValueError) as exc:
        _send(sink, RecognizeReply(error=_reason(exc)))
        return
    _send(sink, RecognizeReply(ready=True))
    decode = msgspec.json.Decoder(RecognizeRequest).decode
    while head := source.read(_LENGTH_BYTES):
        ask = decode(source.read(int.from_bytes(head, "big")))
        found = analyzer.analyze(
            text=ask.text,
            language=options["language"],
            entities=options["find"],
            score_threshold=options["min_score"],
        )
        _send(sink, RecognizeReply(id=ask.id, found=tuple(sorted({item.entity_type for item in found}))))


def _send(sink: BinaryIO, reply: RecognizeReply) -> None:
    sink.write(framed(reply))
    sink.flush()


def _reason(exc: Exception) -> str:
    if isinstance(exc, ModuleNotFoundError):
        return f"{exc.name} is not installed: pip install tollway[ner]"
    return str(exc)


def _analyzer(language: str, model: str) -> Any:
    # Only here, in this process: spaCy takes seconds to import.
    import spacy  # noqa: PLC0415
    import tldextract  # noqa: PLC0415
    from presidio_analyzer import AnalyzerEngine, RecognizerRegistry  # noqa: PLC0415
    from presidio_analyzer.nlp_engine import NerModelConfiguration, SpacyNlpEngine  # noqa: PLC0415

    # Its list of domains comes with the package; by default it would ask the network for a newer one.
    domains: Any = tldextract
    domains.extract = tldextract.TLDExtract(suffix_list_urls=(), cache_dir=None)
    engine: Any = SpacyNlpEngine(
        models=[{"lang_code": language, "model_name": model}],
        ner_model_configuration=NerModelConfiguration(),
    )
    engine.nlp = {language: spacy.blank(language) if model == "blank" else spacy.load(model)}
    registry = RecognizerRegistry(supported_languages=[language])
    registry.load_predefined_recognizers(languages=[language], nlp_engine=engine)
    return AnalyzerEngine(registry=registry, nlp_engine=engine, supported_languages=[language])


if __name__ == "__main__":
    main()
