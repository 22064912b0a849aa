"""Packs the body of a batch: checksum and Zstandard. Without any Zstandard library bodies travel as they are."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass

CODEC_NONE = 1  # the wire's Codec.CODEC_NONE
CODEC_ZSTD = 2  # the wire's Codec.CODEC_ZSTD
_LEVEL = 3
_SMALL_BYTES = 256  # below this a frame header eats what compression saves

_Pair = tuple[Callable[[bytes], bytes], Callable[[bytes], bytes]]


@dataclass(slots=True, frozen=True)
class Encoded:
    """A packed body. crc32 and body_bytes are those of the unpacked one."""

    codec: int
    body: bytes
    body_bytes: int
    crc32: int


def encode(body: bytes) -> Encoded:
    """Packs a serialised message."""
    crc32 = zlib.crc32(body)
    if _zstd is not None and len(body) >= _SMALL_BYTES:
        return Encoded(CODEC_ZSTD, _zstd[0](body), len(body), crc32)
    return Encoded(CODEC_NONE, body, len(body), crc32)


def without_codec(content: Encoded) -> Encoded:
    """The same body as it was, for a collector that does not know the codec."""
    if content.codec == CODEC_NONE or _zstd is None:
        return content
    return Encoded(CODEC_NONE, _zstd[1](content.body), content.body_bytes, content.crc32)


def codecs() -> list[int]:
    """What encode() may produce, as numbers of the wire's Codec."""
    return [CODEC_NONE] if _zstd is None else [CODEC_ZSTD, CODEC_NONE]


def _load_zstd() -> _Pair | None:
    try:
        from compression import zstd  # type: ignore[import-not-found, unused-ignore]  # since Python 3.14

        return lambda body: zstd.compress(body, _LEVEL), zstd.decompress
    except ImportError:
        pass
    try:
        import zstandard
    except ImportError:
        return None
    # A compressor for each call: one that is kept holds its window, megabytes, between readings.
    return (
        lambda body: zstandard.ZstdCompressor(level=_LEVEL, write_content_size=True).compress(body),
        lambda body: zstandard.ZstdDecompressor().decompress(body),
    )


_zstd = _load_zstd()
