"""Decides how every column is treated, by domains: columns that refer to each other are one, and have one mask.

A domain is named after the column that the others refer to, so masks do not change when another table comes to refer
to it. Its treatment is that of this column, unless another one of the domain is more private.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from . import classify
from .masks import NEUTRAL, Mask, Masks
from .schema import Column, ForeignKey, Schema, Table, find_column
from .values import parse_json

Place = tuple[str, str]  # SCHEMA.TABLE, column
KEPT, NULL, IMPOSSIBLE, COMPUTED, DEFAULT = "kept", "null", "impossible", "computed", "default"
NOT_MASKED = frozenset({KEPT, NULL, IMPOSSIBLE, COMPUTED, DEFAULT})
NOT_WRITTEN = frozenset({COMPUTED, DEFAULT})  # the server fills them where a sample is loaded
ATTEMPTS_MAX = 8
_RANGES_OF_DATES = frozenset({"daterange", "tsrange", "tstzrange", "datemultirange", "tsmultirange", "tstzmultirange"})
_RANGES_OF_NUMBERS = frozenset(
    {"int4range", "int8range", "numrange", "int4multirange", "int8multirange", "nummultirange"}
)
_BY_TYPE = {
    "uuid": "uuid", "inet": "address", "cidr": "address", "macaddr": "hardware address", "macaddr8": "hardware address",
    "json": "json", "jsonb": "json", "bytea": "bytes", "bit": "bits", "varbit": "bits", "char": "text",
}  # fmt: skip
# Not masked in parts: a hash in the form of the type.
_WRAPPED = {
    "xml": "<masked>{}</masked>", "hstore": '"{0}"=>"{0}"', "tsvector": "'{}':1", "ltree": "{}", "lquery": "{}",
}  # fmt: skip
_KEY_SHARE_MIN, _KEY_COUNT_MIN = 0.2, 5
_SAMPLE_MAX = 500


@dataclass
class Treatment:
    """of: a name of masks.Masks.of(), or one of NOT_MASKED. why: for the report."""

    of: str
    why: str
    private: bool = False


@dataclass
class Domain:
    """Columns that hold the same values. `masked` answers for all of them and remembers what it said."""

    name: str
    places: list[Place]
    treatment: Treatment
    keep: frozenset[str] = frozenset()
    attempt: int = 0
    _mask: Mask | None = None
    _masked: dict[str, str] = field(default_factory=dict)
    _walks: dict[str, int] = field(default_factory=dict)

    def use(self, mask: Mask, attempt: int) -> None:
        """From now on this one."""
        self._mask, self.attempt, self._masked = mask, attempt, {}

    def masked(self, value: str) -> str:
        """What stands for it."""
        known = self._masked.get(value)
        if known is None:
            known = self._masked[value] = self._make(value)
        return known

    def walk(self, value: str) -> None:
        """What stood for this value is not allowed by the schema: the next one. A permutation that is walked on until
        it is within what is allowed is a permutation of that (cycle walking)."""
        self._walks[value] = self._walks.get(value, 0) + 1
        self._masked.pop(value, None)

    def _make(self, value: str) -> str:
        if self._mask is None or value in self.keep:
            return value
        for _ in range(1 + self._walks.get(value, 0)):
            value = self._mask(value)
        return value


class Plan:
    """Every column's domain, and what became of it."""

    def __init__(self, domains: Sequence[Domain]) -> None:
        self.domains = list(domains)
        self.of: Mapping[Place, Domain] = {place: domain for domain in domains for place in domain.places}


@dataclass(frozen=True)
class Wishes:
    """Columns, as SCHEMA.TABLE.COLUMN or TABLE.COLUMN."""

    allow: Sequence[str] = ()
    mask: Sequence[str] = ()


def make_plan(schema: Schema, values: Mapping[Place, Sequence[str]], wishes: Wishes) -> Plan:
    """values: of every column that was read, those that are not NULL.

    Raises UnknownNameError for a wish for no column.
    """
    allowed = {find_column(text, schema.tables, text) for text in wishes.allow}
    forced = {find_column(text, schema.tables, text) for text in wishes.mask}
    keys = _keys(schema)
    domains = []
    for name, places in _domains(schema):
        of_places = [
            _treatment(schema.tables[table], column, place, keys, values.get(place, ()), allowed, forced)
            for place in places
            for table, column in [(place[0], schema.tables[place[0]].column(place[1]))]
        ]
        treatment = _agreed(of_places, places.index(name))
        keep = frozenset[str]()
        if not treatment.private and treatment.of in ("text", "number"):
            keep = frozenset().union(*(schema.tables[table].literals.get(column, ()) for table, column in places))
        domains.append(Domain(".".join(name), places, treatment, keep))
    return Plan(domains)


def prepare(domain: Domain, schema: Schema, values: Mapping[Place, Sequence[str]], key: bytes, days: int) -> list[str]:
    """Gives a domain its mask, again with others while two different values have become the same. Returns notes."""
    columns = [(place, schema.tables[place[0]].column(place[1])) for place in domain.places]
    treatment = domain.treatment.of
    if treatment in NOT_MASKED:
        return []
    table, root = next((place[0], column) for place, column in columns if ".".join(place) == domain.name)
    limits = [
        column.limit or (63 if column.base == "name" else 1 if column.base == "char" else 0) for _, column in columns
    ]
    limit = min((one for one in limits if one), default=0)
    alone = len(columns) == 1 and not any(
        root.name in index.columns and index.unique for index in schema.tables[table].indexes
    )
    seen = list(dict.fromkeys(value for place in domain.places for value in values.get(place, ())))
    for attempt in range(ATTEMPTS_MAX):
        masks = Masks(key, domain.name, days, limit=limit, attempt=attempt)
        if treatment == "json":
            masks.keys_kept = _keys_kept(seen) | frozenset().union(
                *(schema.tables[place[0]].literals.get(place[1], ()) for place in domain.places)
            )
        domain.use(_mask(masks, treatment, root, prose=alone), attempt)
        if treatment == "neutral" or len({domain.masked(value) for value in seen}) >= _distinct(seen, treatment):
            return []
    return [f"Different values of {domain.name} became the same: there is too little room for them."]


def _mask(masks: Masks, treatment: str, column: Column, *, prose: bool) -> Mask:
    if treatment == "neutral":
        return lambda _: NEUTRAL[column.base]
    if treatment == "array":
        element = _of_element(column)
        each = (lambda text: text) if element == KEPT else masks.of(element)
        return masks.of("array", element=each, delimiter=column.delimiter)
    if treatment == "wrapped":
        form = _WRAPPED[column.base]
        return lambda text: form.format(masks.token(text))
    if treatment == "range":
        return lambda _: "empty" if column.kind == "r" else "{}"
    return masks.of(treatment, prose=prose)


def _distinct(values: Sequence[str], treatment: str) -> int:
    """How many there are; of numbers, 1.0 and 1.00 are one."""
    if treatment != "number":
        return len(values)
    return len({value.rstrip("0").rstrip(".") if "." in value else value for value in values})


def _treatment(
    table: Table,
    column: Column,
    place: Place,
    keys: set[Place],
    values: Sequence[str],
    allowed: set[Place],
    forced: set[Place],
) -> Treatment:
    """Of one column, seen alone."""
    if column.generated:
        return Treatment(COMPUTED, "the server computes it")
    if not column.readable:
        why = "the role has no SELECT on it"
        if column.not_null and column.default:
            return Treatment(DEFAULT, why, private=True)
        return Treatment(NULL if not column.not_null else IMPOSSIBLE, why, private=True)
    if place in forced:
        return _by_type(column, "the configuration says so", private=True)
    if place in allowed:
        return Treatment(KEPT, "the configuration allows it", private=False)
    if column.label and "NOT MASKED" in column.label:
        return Treatment(KEPT, "its label for PostgreSQL Anonymizer says so")
    if column.name in table.partition_key and column.base in classify.DATES | classify.NUMBERS:
        return Treatment(KEPT, "partitions are told by it")
    kind = classify.kind_by_name(column)
    if column.base in classify.HARMLESS or column.base in _RANGES_OF_NUMBERS or column.kind == "e":
        return _number(column, place, keys, values, kind)
    if column.base in classify.DATES or column.base in _RANGES_OF_DATES:
        return Treatment("date", kind or "a date", private=bool(kind))
    if column.base in classify.TEXTS:
        kind = classify.kind_by_values(values) or kind
        return Treatment("email" if kind == "e-mail" else "text", kind or "not classified", private=bool(kind))
    return _by_type(column, kind or "not classified", private=bool(kind))


def _number(column: Column, place: Place, keys: set[Place], values: Sequence[str], kind: str) -> Treatment:
    if column.base not in classify.NUMBERS:
        return Treatment(KEPT, "an enum" if column.kind == "e" else "its type")
    words = classify.words(column.name)
    last = next((word for word in reversed(words) if word not in ("id", "no", "nr", "number", "value")), "")
    if kind and (classify.WORDS.get(last) or kind not in classify.WORDS.values()):
        return Treatment("number", kind, private=True)
    if column.base.startswith("float"):
        return Treatment(KEPT, "a number")
    if place in keys:
        return Treatment("number", "a key")
    if classify.kind_by_values(values) == "card" or classify.is_unique_number(values):
        return Treatment("number", "almost every value is another, and long", private=True)
    return Treatment(KEPT, "a number")


def _by_type(column: Column, why: str, *, private: bool) -> Treatment:
    """The mask of a type, whatever the values."""
    base = column.base
    if base in classify.TEXTS:
        return Treatment("email" if why == "e-mail" else "text", why, private)
    if base in classify.NUMBERS:
        return Treatment("number", why, private)
    if base in classify.DATES or base in _RANGES_OF_DATES:
        return Treatment("date", why, private)
    if base in _BY_TYPE:
        return Treatment(_BY_TYPE[base], why, private)
    if base in _WRAPPED:
        return Treatment("wrapped", why, private)
    if base in NEUTRAL:
        return Treatment("neutral", why, private)
    if column.kind in ("r", "m"):
        return Treatment("range", why, private)
    if column.category == "A" and _of_element(column):
        return Treatment("array", why, private)
    return Treatment(IMPOSSIBLE if column.not_null else NULL, f"there is no mask for {column.type}", private=True)


def _of_element(column: Column) -> str:
    """The mask of an array's elements, or ""."""
    element = column.element
    if column.element_kind == "e" or element == "bool":
        return KEPT
    if element in classify.TEXTS:
        return "text"
    if element in classify.NUMBERS:
        return "number"
    if element in classify.DATES:
        return "date"
    return _BY_TYPE.get(element, "")


def _agreed(of_places: Sequence[Treatment], root: int) -> Treatment:
    """Of several, the one for all: what must be kept, else what must be masked, else the root's."""
    by_wish = [one for one in of_places if one.of == KEPT and one.why.startswith(("the configuration", "its label"))]
    if not any(one.private and one.why == "the configuration says so" for one in of_places) and by_wish:
        return by_wish[0]
    kept = [one for one in of_places if one.of == KEPT and one.why == "partitions are told by it"]
    chosen = kept[0] if kept else of_places[root]
    if chosen.of in NOT_MASKED and not kept:
        private = [one for one in of_places if one.private and one.of not in NOT_MASKED]
        return private[0] if private else chosen
    if not chosen.private and any(one.private for one in of_places):
        chosen = Treatment(chosen.of, chosen.why, private=True)
    return chosen


def _domains(schema: Schema) -> Iterable[tuple[Place, list[Place]]]:
    """(the column that is referred to, all columns) of each set that references hold together."""
    leader: dict[Place, Place] = {}
    for table in schema.tables.values():
        leader.update({(table.name, column.name): (table.name, column.name) for column in table.columns})

    def find(place: Place) -> Place:
        while leader[place] != place:
            leader[place] = leader[leader[place]]
            place = leader[place]
        return place

    referring: set[Place] = set()
    for reference in schema.foreign_keys:
        for child, parent in pairs(reference):
            if child != parent:
                referring.add(child)
                leader[find(child)] = find(parent)
    sets: dict[Place, list[Place]] = {}
    for place in leader:
        sets.setdefault(find(place), []).append(place)
    for places in sets.values():
        roots = [place for place in places if place not in referring]
        yield min(roots or places), sorted(places)


def pairs(reference: ForeignKey) -> list[tuple[Place, Place]]:
    """(child column, parent column); none when the parent is left out."""
    if not reference.parent_columns:
        return []
    both = zip(reference.child_columns, reference.parent_columns, strict=True)
    return [((reference.child, child), (reference.parent, parent)) for child, parent in both]


def _keys(schema: Schema) -> set[Place]:
    """Columns of primary keys, unique indexes and references: they say which row it is."""
    found = {place for reference in schema.foreign_keys for pair in pairs(reference) for place in pair}
    for table in schema.tables.values():
        for index in table.indexes:
            if index.unique:
                found |= {(table.name, column) for column in index.columns}
    return found


def _keys_kept(documents: Sequence[str]) -> frozenset[str]:
    """Keys that are names of fields: in many documents, and like a name in a program. Others may be somebody's."""
    counts: dict[str, int] = {}
    looked_at = documents[:_SAMPLE_MAX]
    for text in looked_at:
        found: set[str] = set()
        try:
            _gather(parse_json(text), found)
        except (ValueError, RecursionError):
            continue
        for key in found:
            counts[key] = counts.get(key, 0) + 1
    least = max(_KEY_COUNT_MIN, _KEY_SHARE_MIN * len(looked_at))
    return frozenset(key for key, count in counts.items() if count >= least and key.isidentifier() and key.isascii())


def _gather(part: object, found: set[str]) -> None:
    if isinstance(part, dict):
        for key, one in part.items():
            if len(found) < 10_000:
                found.add(key)
            _gather(one, found)
    elif isinstance(part, list):
        for one in part:
            _gather(one, found)
