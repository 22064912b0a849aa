"""pprof: gzip-compressed profile.proto, for `go tool pprof` and everything else that reads it.

A difference is written as `go tool pprof -diff_base` builds one in memory: the earlier values as negative samples
labelled `pprof::base`. Every reader that adds samples up then sees after minus before, and pprof itself, which knows
the label, reports percentages of the earlier total, which a file of plain differences could not tell it.
"""

from __future__ import annotations

import gzip
from collections.abc import Sequence

from glassbottom_collector.pprof.v1 import profile_pb2

from ..profile import CallPath, Profile

BASE_LABEL = ("pprof::base", "true")


def encode(profile: Profile) -> bytes:
    """The profile as a gzip-compressed message. Equal profiles give equal bytes."""
    return gzip.compress(build(profile).SerializeToString(deterministic=True), mtime=0)


def build(profile: Profile) -> profile_pb2.Profile:
    """The profile as a message."""
    text = _Strings()
    period, period_unit, period_length = profile.period
    message = profile_pb2.Profile(
        sample_type=[
            profile_pb2.ValueType(type=text(measure.name), unit=text(measure.unit)) for measure in profile.measures
        ],
        default_sample_type=text(profile.shown.name),
        period_type=profile_pb2.ValueType(type=text(period), unit=text(period_unit)),
        period=period_length,
        time_nanos=profile.from_ns or profile.at_ns,
        comment=[text(comment) for comment in profile.comments],
        # One mapping that claims all is named already keeps pprof from looking for binaries to symbolise.
        mapping=[
            profile_pb2.Mapping(
                id=1, filename=text(profile.service), has_functions=True, has_filenames=True, has_line_numbers=True
            )
        ],
    )
    used = sorted({code for path in profile.paths for code in path.codes})
    _add_code(message, profile, used, text)
    location_of = {code: at for at, code in enumerate(used, start=1)}
    columns = [profile.column(measure) for measure in profile.measures]
    _add_samples(message, profile.paths, location_of, columns, text, [])
    if profile.is_difference:
        key, value = BASE_LABEL
        base = [profile_pb2.Label(key=text(key), str=text(value))]
        negative = [[-value for value in profile.column(measure, before=True)] for measure in profile.measures]
        _add_samples(message, profile.paths, location_of, negative, text, base)
        message.duration_nanos = profile.at_ns - profile.before_ns
    elif profile.is_time:
        message.duration_nanos = profile.at_ns - profile.from_ns
    message.string_table.extend(text.table)
    return message


def _add_code(message: profile_pb2.Profile, profile: Profile, used: Sequence[int], text: _Strings) -> None:
    function_of: dict[tuple[str, str], int] = {}
    for at, code in enumerate((profile.codes[index] for index in used), start=1):
        function = function_of.setdefault((code.function, code.file), len(function_of) + 1)
        if function > len(message.function):
            # No system_name: where it equals the name, pprof takes that for C++ and strips what stands in angle
            # brackets, and `<module>` and `f.<locals>.g` would lose half of themselves.
            message.function.add(id=function, name=text(code.function), filename=text(code.file))
        message.location.add(id=at, mapping_id=1, line=[profile_pb2.Line(function_id=function, line=code.line)])


def _add_samples(
    message: profile_pb2.Profile,
    paths: Sequence[CallPath],
    location_of: dict[int, int],
    columns: Sequence[Sequence[int]],
    text: _Strings,
    more_labels: Sequence[profile_pb2.Label],
) -> None:
    for path, values in zip(paths, zip(*columns, strict=True), strict=True):
        if any(values):
            labels = [
                profile_pb2.Label(key=text(key), str=text(value))
                for key, value in path.labels._asdict().items()
                if value
            ]
            message.sample.add(
                location_id=[location_of[code] for code in path.codes], value=values, label=[*labels, *more_labels]
            )


class _Strings:
    """The string table: gives every text its index, the empty one 0."""

    def __init__(self) -> None:
        self._index: dict[str, int] = {"": 0}

    def __call__(self, text: str) -> int:
        return self._index.setdefault(text, len(self._index))

    @property
    def table(self) -> list[str]:
        return list(self._index)
