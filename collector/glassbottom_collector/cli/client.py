"""The way to a collector: one channel, a deadline on every call, and errors as sentences with exit codes.

The only module of the command line that imports grpc, and it does so late. It does not retry: a person is waiting
and can press the key again.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, cast

from .exits import CliError, Refused, UsageError
from .timespec import SECOND_NS, now_ns

if TYPE_CHECKING:
    import grpc
    from glassbottom.wire.v1.control_pb2_grpc import ControlServiceStub
    from glassbottom.wire.v1.heapdump_pb2_grpc import HeapDumpServiceStub
    from glassbottom.wire.v1.incident_pb2_grpc import IncidentServiceStub
    from glassbottom.wire.v1.query_pb2_grpc import QueryServiceStub
    from glassbottom.wire.v1.recordings_pb2_grpc import RecordingServiceStub
    from glassbottom.wire.v1.snapshots_pb2_grpc import SnapshotServiceStub

DEFAULT_ADDR = "127.0.0.1:7411"

# A whole profile comes in pieces, each well below this.
MESSAGE_BYTES_MAX = 64 * 1024 * 1024

TIMEOUT_S_MAX = 86_400

# How far back the search for the only service goes when --service is left out.
_RECENT_NS = 24 * 3600 * SECOND_NS

# A channel that has just carried an answer is ready at once, but the machine may be busy.
_CONNECTED_WITHIN_S = 2.0

_DOWN = "start it with `glassbottom collector`, or name another with --addr or GLASSBOTTOM_ADDR"


def add_arguments(parser: argparse.ArgumentParser, timeout_s: float = 30) -> None:
    """Declares how to reach the collector."""
    group = parser.add_argument_group("collector")
    group.add_argument(
        "--addr",
        metavar="HOST:PORT",
        default=os.environ.get("GLASSBOTTOM_ADDR") or DEFAULT_ADDR,
        help=f"where it listens (GLASSBOTTOM_ADDR, {DEFAULT_ADDR})",
    )
    group.add_argument(
        "--timeout",
        metavar="SECONDS",
        type=float,
        default=timeout_s,
        help=f"give up after so long ({timeout_s:g})",
    )
    group.add_argument("--tls-ca", metavar="FILE", type=Path, help="use TLS and trust this certificate authority (PEM)")
    group.add_argument("--tls-cert", metavar="FILE", type=Path, help="certificate to show (PEM)")
    group.add_argument("--tls-key", metavar="FILE", type=Path, help="its private key (PEM)")


def add_service_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares which processes are meant."""
    parser.add_argument("--service", metavar="NAME", default="", help="which service (the only one there is)")
    parser.add_argument("--instance", metavar="ID", default="", help="only this process; a unique prefix is enough")


@contextmanager
def querying(args: argparse.Namespace) -> Iterator[QueryServiceStub]:
    """A stub of the collector's QueryService; errors of calls inside become CliError."""
    from glassbottom.wire.v1.query_pb2_grpc import QueryServiceStub

    with _channel(args) as channel, _sentences(args, channel):
        yield QueryServiceStub(channel)


@contextmanager
def controlling(args: argparse.Namespace) -> Iterator[tuple[QueryServiceStub, ControlServiceStub]]:
    """Stubs of the collector's QueryService and ControlService; errors of calls inside become CliError."""
    from glassbottom.wire.v1.control_pb2_grpc import ControlServiceStub
    from glassbottom.wire.v1.query_pb2_grpc import QueryServiceStub

    with _channel(args) as channel, _sentences(args, channel):
        yield QueryServiceStub(channel), ControlServiceStub(channel)


@contextmanager
def asking_dumps(args: argparse.Namespace) -> Iterator[tuple[QueryServiceStub, HeapDumpServiceStub]]:
    """Stubs of the collector's QueryService and HeapDumpService; errors of calls inside become CliError."""
    from glassbottom.wire.v1.heapdump_pb2_grpc import HeapDumpServiceStub
    from glassbottom.wire.v1.query_pb2_grpc import QueryServiceStub

    with _channel(args) as channel, _sentences(args, channel):
        yield QueryServiceStub(channel), HeapDumpServiceStub(channel)


@contextmanager
def capturing(args: argparse.Namespace) -> Iterator[tuple[QueryServiceStub, IncidentServiceStub]]:
    """Stubs of the collector's QueryService and IncidentService; errors of calls inside become CliError."""
    from glassbottom.wire.v1.incident_pb2_grpc import IncidentServiceStub
    from glassbottom.wire.v1.query_pb2_grpc import QueryServiceStub

    with _channel(args) as channel, _sentences(args, channel):
        yield QueryServiceStub(channel), IncidentServiceStub(channel)


@contextmanager
def comparing(args: argparse.Namespace) -> Iterator[tuple[QueryServiceStub, SnapshotServiceStub]]:
    """Stubs of the collector's QueryService and SnapshotService; errors of calls inside become CliError."""
    from glassbottom.wire.v1.query_pb2_grpc import QueryServiceStub
    from glassbottom.wire.v1.snapshots_pb2_grpc import SnapshotServiceStub

    with _channel(args) as channel, _sentences(args, channel):
        yield QueryServiceStub(channel), SnapshotServiceStub(channel)


@contextmanager
def reading(args: argparse.Namespace) -> Iterator[RecordingServiceStub]:
    """A stub of the collector's RecordingService; errors of calls inside become CliError."""
    from glassbottom.wire.v1.recordings_pb2_grpc import RecordingServiceStub

    with _channel(args) as channel, _sentences(args, channel):
        yield RecordingServiceStub(channel)


def service_name(args: argparse.Namespace, query: QueryServiceStub) -> str:
    """The service asked for, or the only one seen in the last day. Raises UsageError when that leaves a choice."""
    from glassbottom.wire.v1.query_pb2 import ListServicesRequest, Range

    if args.service:
        return str(args.service)
    at_ns = now_ns()
    recent = Range(from_ns=at_ns - _RECENT_NS, to_ns=at_ns)
    names = [
        service.name for service in query.ListServices(ListServicesRequest(range=recent), timeout=args.timeout).services
    ]
    if len(names) == 1:
        return names[0]
    if names:
        raise UsageError(f"--service is needed; there are: {', '.join(names)}.")
    raise CliError(
        "no service has sent data in the last day; start one with `glassbottom run -- python app.py`, "
        "or name an older one with --service."
    )


@contextmanager
def _channel(args: argparse.Namespace) -> Iterator[grpc.Channel]:
    host, _, port = args.addr.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise UsageError(f"--addr {args.addr} is not HOST:PORT, such as {DEFAULT_ADDR}.")
    if not 0 < args.timeout <= TIMEOUT_S_MAX:
        raise UsageError(f"--timeout must be more than 0 and at most {TIMEOUT_S_MAX} seconds.")
    # Otherwise grpc's C core writes lines of its own between ours.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    import grpc

    options = [("grpc.max_receive_message_length", MESSAGE_BYTES_MAX), ("grpc.enable_http_proxy", 0)]
    credentials = _credentials(args)
    channel = (
        grpc.insecure_channel(args.addr, options)
        if credentials is None
        else grpc.secure_channel(args.addr, credentials, options)
    )
    with channel:
        yield channel


def _credentials(args: argparse.Namespace) -> grpc.ChannelCredentials | None:
    if (args.tls_cert is None) != (args.tls_key is None):
        raise UsageError("--tls-cert and --tls-key belong together; give both or neither.")
    if args.tls_ca is None:
        if args.tls_cert is not None:
            raise UsageError("--tls-cert needs --tls-ca, the authority that signed the collector's certificate.")
        return None
    import grpc

    return grpc.ssl_channel_credentials(
        root_certificates=_read(args.tls_ca),
        private_key=_read(args.tls_key) if args.tls_key else None,
        certificate_chain=_read(args.tls_cert) if args.tls_cert else None,
    )


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise CliError(f"cannot read {path}: {error.strerror}.") from None


@contextmanager
def _sentences(args: argparse.Namespace, channel: grpc.Channel) -> Iterator[None]:
    import grpc

    try:
        yield
    except grpc.RpcError as error:
        # Every error a stub raises is also a Call, which is where code and details are.
        call = cast("grpc.Call", error)
        code, details = call.code(), call.details() or ""
        if code is grpc.StatusCode.UNAVAILABLE and not _was_answered(channel, details):
            raise CliError(_unreachable(details, args)) from None
        raise _translated(code, details, args) from None


def _translated(code: grpc.StatusCode, details: str, args: argparse.Namespace) -> CliError:
    from grpc import StatusCode

    match code:
        case StatusCode.UNAVAILABLE:
            return CliError(f"the collector at {args.addr} cannot answer now: {_sentence(details)}")
        case StatusCode.DEADLINE_EXCEEDED:
            return CliError(
                f"the collector at {args.addr} did not answer within {args.timeout:g} s; "
                "allow more with --timeout SECONDS, or ask for a shorter range."
            )
        case StatusCode.INVALID_ARGUMENT:
            return UsageError(_sentence(details))
        case StatusCode.PERMISSION_DENIED | StatusCode.FAILED_PRECONDITION:
            return Refused(_sentence(details))
        case StatusCode.NOT_FOUND | StatusCode.RESOURCE_EXHAUSTED:
            return CliError(_sentence(details))
        case StatusCode.UNAUTHENTICATED:
            return CliError(f"the collector at {args.addr} does not know who is asking: {_sentence(details)}")
        case StatusCode.UNIMPLEMENTED:
            return CliError(
                f"what listens on {args.addr} does not know this question; it may be an older collector "
                "(`glassbottom status` shows its version) or another program."
            )
        case StatusCode.CANCELLED:
            return CliError(f"the collector at {args.addr} went away before it had answered; try again.")
        case _:
            return CliError(
                f"the collector at {args.addr} failed ({code.name.lower()}: {_sentence(details)}); "
                "its own log says more."
            )


def _was_answered(channel: grpc.Channel, details: str) -> bool:
    """Whether a refusal came from a collector or from the way there: grpc says UNAVAILABLE for both, and words the
    second in several ways that change with its versions, of which this is the usual one."""
    import grpc

    if details.startswith("failed to connect to all addresses"):
        return False

    ready = grpc.channel_ready_future(channel)
    try:
        ready.result(_CONNECTED_WITHIN_S)
    except grpc.FutureTimeoutError:
        return False
    else:
        return True
    finally:
        ready.cancel()


def _unreachable(details: str, args: argparse.Namespace) -> str:
    lower = details.lower()
    if "ssl" in lower or "tls" in lower or "certificate" in lower or "handshak" in lower:
        return (
            f"no TLS connection to the collector at {args.addr}: check that it speaks TLS and that "
            f"--tls-ca signed its certificate ({_last_words(details)})."
        )
    if "refused" in lower:
        return f"no collector listens on {args.addr}; {_DOWN}."
    if args.tls_ca is None and ("closed" in lower or "reset" in lower):
        return f"what listens on {args.addr} hung up; if the collector uses TLS, give --tls-ca."
    return f"the collector at {args.addr} cannot be reached ({_last_words(details)}); {_DOWN}."


def _last_words(details: str) -> str:
    """The innermost reason in grpc's chain of them."""
    return details.rsplit("last error: ", 1)[-1].removeprefix("UNKNOWN: ").rstrip(".")


def _sentence(details: str) -> str:
    text = details.strip() or "no reason given"
    return text if text.endswith((".", "!", "?")) else text + "."
