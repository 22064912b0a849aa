"""Call paths: two places are never taken for one."""

from __future__ import annotations

from typing import Any

from glassbottom import _native

from tests.support.sampling import rows, sampler

STATEMENT = "    kept.append(bytes(2000))\n"
FILLERS = ("    b = a\n", "    -a\n")  # instructions that allocate nothing, 4 and 6 bytes


def made(source: str) -> Any:
    scope: dict[str, Any] = {}
    exec("def huge(kept, a=1, b=2):\n" + source, scope)
    return scope["huge"]


def length_of(source: str) -> int:
    """In bytes of instructions."""
    return len(made(STATEMENT + source).__code__.co_code) - len(made(STATEMENT).__code__.co_code)


def test_lines_64_kib_of_instructions_apart_are_two_places() -> None:
    left = 65536 - length_of(STATEMENT)
    filler = FILLERS[1] if left % 4 else ""
    filler += FILLERS[0] * ((left - (length_of(filler) if filler else 0)) // 4)
    assert length_of(STATEMENT + filler) == 65536
    huge = made(STATEMENT + filler + STATEMENT)
    kept: list[bytes] = []
    with sampler(interval_bytes=4096.0):
        for _ in range(200):
            huge(kept)
        found = [row for row in rows(_native.snapshot()) if row.functions[0] == "huge"]
    samples = {row.lines[0]: row.samples for row in found if row.samples > 20}
    assert len(samples) == 2
