"""The second look at a finished archive: it sees into everything, has bounds, and does not accuse what we wrote."""

import base64
import bz2
import gzip
import io
import lzma
import tarfile
import zipfile

import pytest
import zstandard
from glassbottom_collector.redaction import Redactor
from glassbottom_collector.redaction import scan as scanning
from glassbottom_collector.redaction.scan import NOT_SCANNED, Hit, scan

pytestmark = pytest.mark.once

SECRET = b"Zq7-vulture.Kestrel"
LINE = b"first\ndb_password=" + SECRET + b"\n"


def in_tar(name: str, data: bytes) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        member = tarfile.TarInfo(name)
        member.size = len(data)
        archive.addfile(member, io.BytesIO(data))
    return out.getvalue()


def in_zip(name: str, data: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, data)
    return out.getvalue()


def test_a_hit_says_where_and_never_what() -> None:
    hits = scan("logs/a.log", LINE)
    assert hits == [Hit("password", "logs/a.log", 2, len(SECRET))]
    assert SECRET.decode() not in repr(hits)


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress, zstandard.compress])
def test_it_looks_into_compressed_files(pack) -> None:
    assert [hit.rule for hit in scan("a", pack(LINE))] == ["password"]


def test_it_looks_into_archives_in_archives() -> None:
    inner = in_zip("deep/b.json", b'{"client_secret": "' + SECRET + b'"}')
    outer = gzip.compress(in_tar("c.tar.gz", gzip.compress(in_tar("d.zip", inner))))
    (hit,) = scan("debug.tar.gz", outer)
    assert hit.path == "debug.tar.gz!!c.tar.gz!!d.zip!deep/b.json"
    assert hit.rule == "secret"


def test_names_of_members_are_looked_at_as_well() -> None:
    assert [hit.rule for hit in scan("a", in_tar("dumps/anna.meier@kunde.de.csv", b""))] == ["email"]
    assert [hit.rule for hit in scan("a", in_zip("dumps/anna.meier@kunde.de.csv", b"x"))] == ["email"]


def test_text_in_two_bytes_a_sign_and_text_among_binary_is_found() -> None:
    assert scan("a", LINE.decode().encode("utf-16"))
    assert scan("a", bytes(range(256)) * 4 + LINE + bytes(range(256)))


def test_a_bomb_is_not_unpacked_but_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scanning, "BYTES_MAX", 1 << 20)
    (hit,) = scan("a.gz", gzip.compress(bytes(64 << 20)))
    assert (hit.rule, hit.path) == (NOT_SCANNED, "a.gz")
    assert "1 MiB" in hit.why


def test_too_many_members_and_too_many_levels_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    data = b"harmless"
    for _ in range(scanning.DEPTH_MAX + 1):
        data = gzip.compress(data)
    assert [hit.rule for hit in scan("a", data)] == [NOT_SCANNED]
    monkeypatch.setattr(scanning, "MEMBERS_MAX", 3)
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for number in range(5):
            archive.writestr(str(number), b"x")
    assert [hit.rule for hit in scan("a", out.getvalue())] == [NOT_SCANNED]


def test_hits_have_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scanning, "HITS_MAX", 10)
    hits = scan("a", b"".join(b"password=hunter%d\n" % number for number in range(100)))
    assert len(hits) == 11
    assert hits[-1].rule == NOT_SCANNED


# Named, since what is packed has the time in it, and processes that share out tests must have the same names for them.
@pytest.mark.parametrize(
    "damaged",
    [gzip.compress(LINE * 9)[:-20], in_zip("a", LINE)[:60], in_tar("a", LINE)[:530]],
    ids=["gzip", "zip", "tar"],
)
def test_what_is_damaged_is_not_taken_for_harmless(damaged: bytes) -> None:
    assert scan("a", damaged)


def test_what_has_been_redacted_is_harmless_and_so_are_hashes_and_masks() -> None:
    redactor = Redactor(b"a key of sixteen")
    text = redactor.text(
        f"password={SECRET.decode()} a.b@kunde.de 4111 1111 1111 1111 8.8.8.8 Authorization: Bearer abcdef123456",
        "a",
    )
    files = [
        text,
        '{"path": "logs/a.log", "sha256": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"}',
        "id,email,phone\n1,user-3f2a@example.invalid,+1-202-555-0142\n",
        'trace 4bf92f3577b34da6a3ce929d0e0e4736 etag W/"5d8c72a5edda8d6a"',
        base64.b64encode(text.encode()).decode(),
    ]
    for content in files:
        assert scan("a", content.encode()) == []
        assert scan("a", content.encode(), addresses=True) == []


def test_an_address_counts_only_when_asked_for() -> None:
    assert scan("a", b"from 8.8.8.8 to 127.0.0.1") == []
    assert [hit.rule for hit in scan("a", b"from 8.8.8.8 to 127.0.0.1", addresses=True)] == ["ipv4"]
