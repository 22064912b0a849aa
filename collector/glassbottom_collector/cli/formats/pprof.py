"""pprof: gzip-compressed profile.proto, for `go tool pprof` and everything else that reads it.

A difference is written as `go tool pprof -diff_base` builds one in memory: the earlier values as negative samples
labelled `pprof::base`. Every reader that adds samples up then sees after minus before, and pprof itself, which knows
the label, reports percentages of the earlier total, which a file of plain differences could not tell it.
"""

from __future__ import annotations

import gzip
from collections.abc import Sequence

from glassbottom_collector.pprof.v1 import profile_pb2

from ..profile import CallPath, Profile, whole
from ..text import moment

# In the order, and with the names, that Go's own heap profiles have; viewers look for these words.
ALLOCATED = (("alloc_objects", "count"), ("alloc_space", "bytes"))
LIVE = (("inuse_objects", "count"), ("inuse_space", "bytes"))
DEFAULT_SAMPLE_TYPE = "inuse_space"
BASE_LABEL = ("pprof::base", "true")


def encode(profile: Profile) -> bytes:
    """The profile as a gzip-compressed message. Equal profiles give equal bytes."""
    return gzip.compress(build(profile).SerializeToString(deterministic=True), mtime=0)


def build(profile: Profile) -> profile_pb2.Profile:
    """The profile as a message."""
    text = _Strings()
    message = profile_pb2.Profile(
        # Allocations are counted since the sampler began, so a difference of them says nothing about its two moments.
        sample_type=[
            profile_pb2.ValueType(type=text(name), unit=text(unit))
            for name, unit in (LIVE if profile.is_difference else ALLOCATED + LIVE)
        ],
        default_sample_type=text(DEFAULT_SAMPLE_TYPE),
        period_type=profile_pb2.ValueType(type=text("space"), unit=text("bytes")),
        period=round(profile.interval_bytes),
        time_nanos=profile.at_ns,
        comment=[text(comment) for comment in _comments(profile)],
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
    if profile.is_difference:
        key, value = BASE_LABEL
        base = [profile_pb2.Label(key=text(key), str=text(value))]
        _add_samples(message, profile.paths, location_of, _live(profile), [])
        negative = [[-value for value in column] for column in _live_before(profile)]
        _add_samples(message, profile.paths, location_of, negative, base)
        message.duration_nanos = profile.at_ns - profile.before_ns
    else:
        allocated = [
            whole([path.values.alloc_objects for path in profile.paths]),
            whole([path.values.alloc_bytes for path in profile.paths]),
        ]
        _add_samples(message, profile.paths, location_of, allocated + _live(profile), [])
    message.string_table.extend(text.table)
    return message


def _live(profile: Profile) -> list[list[int]]:
    return [
        whole([path.values.live_objects for path in profile.paths], profile.totals.live_objects),
        whole([path.values.live_bytes for path in profile.paths], profile.totals.live_bytes),
    ]


def _live_before(profile: Profile) -> list[list[int]]:
    return [
        whole([path.values.before_live_objects for path in profile.paths], profile.before.live_objects),
        whole([path.values.before_live_bytes for path in profile.paths], profile.before.live_bytes),
    ]


def _comments(profile: Profile) -> list[str]:
    since = f"difference from {moment(profile.before_ns)} to" if profile.is_difference else "at"
    return [
        f"glassbottom heap of {profile.service} {since} {moment(profile.at_ns)}, processes: {profile.totals.instances}",
        "Estimates from Poisson sampling by bytes; totals are those of `glassbottom top -o json`.",
    ]


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
    labels: Sequence[profile_pb2.Label],
) -> None:
    for path, values in zip(paths, zip(*columns, strict=True), strict=True):
        if any(values):
            message.sample.add(location_id=[location_of[code] for code in path.codes], value=values, label=labels)


class _Strings:
    """The string table: gives every text its index, the empty one 0."""

    def __init__(self) -> None:
        self._index: dict[str, int] = {"": 0}

    def __call__(self, text: str) -> int:
        return self._index.setdefault(text, len(self._index))

    @property
    def table(self) -> list[str]:
        return list(self._index)
