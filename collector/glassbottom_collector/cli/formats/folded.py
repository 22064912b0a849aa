"""Folded stacks: one call path per line, outermost first, for flamegraph.pl, inferno and grep.

A difference has two numbers per line, before and after, which is what difffolded.pl writes and flamegraph.pl colours.
"""

from __future__ import annotations

from ..profile import Code, Profile


def encode(profile: Profile) -> str:
    """`outer (file:line);inner (file:line) value` per call path that has one, in the unit of profile.shown."""
    profile = profile.unlabelled()
    after = profile.column(profile.shown)
    before = profile.column(profile.shown, before=True) if profile.is_difference else [0] * len(after)
    names = [_name(code) for code in profile.codes]
    lines = []
    for path, now, then in zip(profile.paths, after, before, strict=True):
        if now or then:
            stack = ";".join(names[code] for code in reversed(path.codes))
            lines.append(f"{stack} {then} {now}\n" if profile.is_difference else f"{stack} {now}\n")
    return "".join(lines)


def _name(code: Code) -> str:
    where = f"{code.file}:{code.line}" if code.line else code.file
    # The semicolon separates frames; names that contain one keep their other letters.
    return (f"{code.function} ({where})" if where else code.function).replace(";", ":")
