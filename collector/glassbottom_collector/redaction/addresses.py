"""IP addresses, mapped under a key so that a subnet stays a subnet.

Without addresses one cannot see any more that all errors come from one node, and a bundle is of little use (the
authors of Replicated's troubleshoot switched the masking of addresses off again for that reason, ADR-001). So an
address becomes another one, always the same under a key: addresses of one /24 (IPv6: one /64) stay together, and a
private one can be told from a public one.

The new addresses are taken from blocks that nobody uses, 240.0.0.0/4 (reserved, RFC 1112) and 2001:db8::/32 (for
documents, RFC 3849). They are known as ours by that: redacting twice changes nothing, and no real host is accused.

Two /24 may share their new one: there are 2**19 for public networks and 2**18 for private ones (100 public networks:
1 in 100). Addresses that say nothing stay as they are: loopback, unspecified, broadcast, multicast, link-local of
IPv4, the blocks for documents.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator

from .spans import Span, matches, pattern
from .tokens import Tokens

RULE_4, RULE_6 = "ipv4", "ipv6"
_FOUR = pattern(rb"\d{1,3}\.\d{1,3}\.\d{1,3}\.\d{1,3}")
# Global unicast, unique local and link-local ones. The others name no machine, and look like times, MAC addresses and
# names of C++.
_SIX = pattern(rb"(?i)(?:[23][0-9a-f]{3}|f[cdef][0-9a-f]{2}):[0-9a-f:]{1,34}(?::[0-9a-f]{1,4}|::)")
_KEPT_4 = frozenset({(169, 254), (192, 0, 2), (198, 51, 100), (203, 0, 113)})
_FIRST_OF_MULTICAST = 224  # from here on: multicast, then the reserved block that ours are in
_DOCUMENTS_6 = ipaddress.IPv6Network("2001:db8::/32")
_WORD = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_")
_VERSION = ([b"v"], [b"version"], [b"version:"], [b"ver"], [b"release"], [b"build"])
_SPACES = (b" ", b"\t")


def find(text: bytes) -> Iterator[Span]:
    """Addresses that would be mapped. `1.2.3.4` after a word such as `version`, or within a longer name, is none."""
    for match in matches(_FOUR, text):
        start, end = match.span()
        if _stands_alone(text, start, end) and _mapped_4(match.group()):
            yield Span(start, end, RULE_4, personal=True)
    for match in matches(_SIX, text):
        start, end = match.span()
        if (start == 0 or text[start - 1] not in _WORD | {0x3A}) and (end == len(text) or text[end] not in _WORD):
            address = _six(match.group())
            if address is not None and address not in _DOCUMENTS_6:
                yield Span(start, end, RULE_6, personal=True)


def mapped(tokens: Tokens, rule: str, value: bytes) -> bytes:
    """The address that stands for this one, which find() has found."""
    if rule == RULE_4:
        return _map_4(tokens, ipaddress.IPv4Address(value.decode()))
    address = int(ipaddress.IPv6Address(value.decode()))
    net = tokens.digest(b"ipv6 net\0", (address >> 64).to_bytes(8, "big"))[:4]
    host = tokens.digest(b"ipv6 host\0", address.to_bytes(16, "big"))[:8]
    new = int(_DOCUMENTS_6.network_address) | int.from_bytes(net, "big") << 64 | int.from_bytes(host, "big")
    return str(ipaddress.IPv6Address(new)).encode()


def _map_4(tokens: Tokens, address: ipaddress.IPv4Address) -> bytes:
    octets = address.packed
    net = int.from_bytes(tokens.digest(b"ipv4 net\0", octets[:3])[:3], "big")
    # Within a subnet two hosts never become one: the last octet is XORed with a byte of the subnet's own.
    host = octets[3] ^ tokens.digest(b"ipv4 host\0", octets[:3])[0]
    first = 248 | net >> 16 & 3 if address.is_private else 240 | net >> 16 & 7
    return b"%d.%d.%d.%d" % (first, net >> 8 & 255, net & 255, host)


def _mapped_4(value: bytes) -> bool:
    """By hand: ipaddress takes ten times as long, and a log has one in every line."""
    first, second, third, fourth = value.split(b".")
    octets = (int(first), int(second), int(third), int(fourth))
    return (
        0 < octets[0] < _FIRST_OF_MULTICAST
        and octets[0] != 127
        and max(octets) < 256
        and b"%d.%d.%d.%d" % octets == value
        and octets[:2] not in _KEPT_4
        and octets[:3] not in _KEPT_4
    )


def _stands_alone(text: bytes, start: int, end: int) -> bool:
    if start and (text[start - 1] in _WORD or text[start - 1] == 0x2E):
        return False
    if end < len(text):
        after = text[end]
        if after in _WORD or (after == 0x2E and end + 1 < len(text) and text[end + 1] in _WORD):
            return False
    before = text[max(0, start - 12) : start]
    return not (before[-1:] in _SPACES and before.lower().split()[-1:] in _VERSION)


def _six(value: bytes) -> ipaddress.IPv6Address | None:
    try:
        return ipaddress.IPv6Address(value.decode())
    except ValueError:
        return None
