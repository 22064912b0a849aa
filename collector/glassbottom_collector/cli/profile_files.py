"""Whole profiles: fetched from the collector and written in the format asked for."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from . import output, profile
from .formats import folded, html, pprof, speedscope

if TYPE_CHECKING:
    from glassbottom.wire.v1.query_pb2 import ProfileRequest
    from glassbottom.wire.v1.query_pb2_grpc import QueryServiceStub


def answer(args: argparse.Namespace, query: QueryServiceStub, service: str, at_ns: int, before_ns: int = 0) -> None:
    """Writes the whole heap at a moment, or the difference of two."""
    from glassbottom.wire.v1.query_pb2 import ProfileRequest, Selector

    request = ProfileRequest(
        selector=Selector(service=service, instance_id=args.instance), at_ns=at_ns, before_ns=before_ns
    )
    write(args, fetch(args, query, request))


def fetch(
    args: argparse.Namespace,
    query: QueryServiceStub,
    request: ProfileRequest,
    shown: profile.Measure = profile.LIVE_BYTES,
    about: str = "",
) -> profile.Profile:
    """Every call path the request is about; shows a person how many there are so far."""
    with output.Progress() as progress:
        return profile.assemble(
            query.Profile(request, timeout=args.timeout),
            request.selector.service,
            request.at_ns,
            request.before_ns,
            lambda paths: progress.show("reading call paths:", paths),
            from_ns=request.from_ns,
            shown=shown,
            about=about,
        )


def write(args: argparse.Namespace, whole: profile.Profile) -> None:
    """Writes it as -o and --output say."""
    if args.format == "pprof":
        output.write_bytes(args, pprof.encode(whole))
    else:
        encode = {"folded": folded.encode, "speedscope": speedscope.encode, "html": html.encode}[args.format]
        output.write_text(args, encode(whole))
