"""Names of people and places, which have no form that could be validated: Presidio with a model of spaCy, if wanted.

An extra (`pip install 'glassbottom[ner]'`, 410 MB and a model), for the collector only, and slow: about 1 000 lines a
second. It opens no connection: of Presidio's recognisers only the one that reads the model's answers is used (its
recogniser of e-mail addresses fetches a list of domains), the list of domains is the one in the package, and a model
that is not installed is an error here, where Presidio would download it.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

from ..errors import ConfigError
from .spans import Span

MODEL = "en_core_web_sm"
SCORE_MIN = 0.5
_RULES = {"PERSON": "person", "LOCATION": "location"}


class Names:
    """Finds them. Building it loads the model: seconds, and hundreds of megabytes."""

    def __init__(self, model: str = MODEL, language: str = "en") -> None:
        """model: an installed package of spaCy, or a folder that spaCy can load.

        Raises ConfigError, which says what to install, when Presidio or the model is not there.
        """
        try:
            needed = ("spacy", "tldextract", "presidio_analyzer", "presidio_analyzer.nlp_engine")
            modules: list[Any] = list(map(import_module, needed))
            spacy, tldextract, presidio, engines = modules
        except ImportError as error:
            raise ConfigError(
                f"Names cannot be redacted: {error.name} is not installed. Run pip install 'glassbottom[ner]'."
            ) from error
        if not spacy.util.is_package(model) and not Path(model).exists():
            raise ConfigError(
                f"Names cannot be redacted: spaCy has no model {model}. Install its wheel, or give a folder."
            )
        tldextract.extract = tldextract.TLDExtract(suffix_list_urls=(), cache_dir=None)
        models = [{"lang_code": language, "model_name": model}]
        configuration = {"nlp_engine_name": "spacy", "models": models}
        self._engine: Any = engines.NlpEngineProvider(nlp_configuration=configuration).create_engine()
        self._engine.load()
        self._recogniser: Any = presidio.predefined_recognizers.SpacyRecognizer(supported_language=language)
        self._language = language

    def find(self, data: bytes) -> Iterator[Span]:
        """People and places in a text."""
        text = data.decode("utf-8", "replace")
        artifacts = self._engine.process_text(text, self._language)
        for result in self._recogniser.analyze(text, list(_RULES), artifacts) or ():
            if result.score >= SCORE_MIN and result.entity_type in _RULES:
                start = len(text[: result.start].encode())
                end = start + len(text[result.start : result.end].encode())
                # A byte that is no UTF-8 has become three: then offsets are not those of the data.
                if data[start:end].decode("utf-8", "replace") == text[result.start : result.end]:
                    yield Span(start, end, _RULES[result.entity_type], personal=True)
