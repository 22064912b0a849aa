"""Whatever goes wrong on the way to an answer is one sentence that says what to do, and an exit code."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from glassbottom_collector.cli import main

from tests.support.cli import Cli
from tests.support.query_double import Answers, serving

pytestmark = pytest.mark.once  # real servers, files and curves; nothing in it differs between versions

TLS = Path(__file__).resolve().parents[1] / "support/tls"


QUESTIONS = ["top", "timeline", "diff", "leaks", "slow", "tasks", "blocked", "findings", "flame"]


@pytest.mark.parametrize("verb", QUESTIONS)
def test_an_unknown_service_lists_those_there_are(verb: str, cli: Cli) -> None:
    assert cli(verb, "--service", "chekout") == 1

    assert cli.out == ""
    assert cli.err == f"glassbottom {verb}: There is no service 'chekout'; there are: checkout.\n"


@pytest.mark.parametrize("verb", ["services", "status", "snapshot", *QUESTIONS])
def test_a_collector_that_is_down_is_told_with_its_address_and_how_to_start_it(
    verb: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as unused:
        # Bound but not listening: the port is ours, and nobody answers on it.
        unused.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{unused.getsockname()[1]}"

        assert main([verb, "--addr", address, *(["--service", "checkout"] if verb != "services" else [])]) == 1

    assert capsys.readouterr().err == (
        f"glassbottom {verb}: no collector listens on {address}; start it with `glassbottom collector`, "
        "or name another with --addr or GLASSBOTTOM_ADDR.\n"
    )


def test_the_address_may_come_from_the_environment(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GLASSBOTTOM_ADDR", cli.address)

    assert main(["services"]) == 0


def test_a_host_that_does_not_exist_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["services", "--addr", "collector.invalid:7411"]) == 1

    err = capsys.readouterr().err
    assert err.startswith("glassbottom services: the collector at collector.invalid:7411 cannot be reached (")
    assert err.count("\n") == 1


def test_a_collector_that_does_not_answer_in_time_is_told_with_the_flag_that_allows_more(
    cli: Cli, answers: Answers
) -> None:
    answers.hangs = True

    assert cli("top", "--service", "checkout", "--timeout", "0.2") == 1
    assert cli.err == (
        f"glassbottom top: the collector at {cli.address} did not answer within 0.2 s; "
        "allow more with --timeout SECONDS, or ask for a shorter range.\n"
    )


@pytest.mark.parametrize(
    ("status", "details", "code", "says"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, "The range ends before it begins", 2, "The range ends before it begins."),
        (grpc.StatusCode.PERMISSION_DENIED, "Snapshots are switched off.", 4, "Snapshots are switched off."),
        (grpc.StatusCode.FAILED_PRECONDITION, "Not enough memory is free.", 4, "Not enough memory is free."),
        (
            grpc.StatusCode.UNAVAILABLE,
            "The store is full.",
            1,
            "the collector at ADDRESS cannot answer now: The store is full.",
        ),
        (
            grpc.StatusCode.UNIMPLEMENTED,
            "Method not found!",
            1,
            (
                "what listens on ADDRESS does not know this question; it may be an older collector "
                "(`glassbottom status` shows its version) or another program."
            ),
        ),
        (
            grpc.StatusCode.UNAUTHENTICATED,
            "No token",
            1,
            "the collector at ADDRESS does not know who is asking: No token.",
        ),
        (
            grpc.StatusCode.INTERNAL,
            "division by zero",
            1,
            "the collector at ADDRESS failed (internal: division by zero.); its own log says more.",
        ),
        (grpc.StatusCode.NOT_FOUND, "No \x1b[2Jsuch\nthing.", 1, "No \\x1b[2Jsuch\\x0athing."),
        (grpc.StatusCode.CANCELLED, "", 1, "the collector at ADDRESS went away before it had answered; try again."),
    ],
)
def test_each_kind_of_refusal_has_its_sentence_and_exit_code(
    status: grpc.StatusCode, details: str, code: int, says: str, cli: Cli, answers: Answers
) -> None:
    answers.error = (status, details)

    assert cli("top", "--service", "checkout") == code
    assert cli.out == ""
    assert cli.err == f"glassbottom top: {says.replace('ADDRESS', cli.address)}\n"


@pytest.mark.parametrize("form", ["table", "json", "html"])
def test_an_error_in_the_middle_of_a_stream_leaves_no_half_answer(form: str, cli: Cli, answers: Answers) -> None:
    answers.error = (grpc.StatusCode.UNAVAILABLE, "The store is closing.")

    assert cli("leaks", "--service", "checkout", "-o", "json" if form == "json" else "table") == 1
    assert cli.out == ""
    assert cli("top", "--service", "checkout", "-o", form) == 1
    assert cli.out == ""


# ---- TLS ------------------------------------------------------------------------------------------------------------


def read(name: str) -> bytes:
    return (TLS / name).read_bytes()


@pytest.fixture
def secure(answers: Answers, capsys: pytest.CaptureFixture[str]) -> Iterator[Cli]:
    """A collector that shows a certificate and wants one."""
    credentials = grpc.ssl_server_credentials(
        [(read("server.key"), read("server.pem"))], root_certificates=read("ca.pem"), require_client_auth=True
    )
    with serving(answers, credentials) as address:
        yield Cli(address, capsys)


CA = ("--tls-ca", str(TLS / "ca.pem"))
CLIENT = ("--tls-cert", str(TLS / "client.pem"), "--tls-key", str(TLS / "client.key"))


def test_tls_with_both_certificates_works(secure: Cli) -> None:
    assert secure("services", *CA, *CLIENT) == 0
    assert "checkout" in secure.out


def test_a_collector_with_a_certificate_of_a_stranger_is_not_trusted(secure: Cli) -> None:
    assert secure("services", "--tls-ca", str(TLS / "stranger.pem"), *CLIENT) == 1

    assert secure.err.startswith(
        f"glassbottom services: no TLS connection to the collector at {secure.address}: check that it speaks TLS and "
        "that --tls-ca signed its certificate ("
    )
    assert secure.err.count("\n") == 1


def test_plain_text_to_a_tls_collector_names_the_flag(secure: Cli) -> None:
    assert secure("services") == 1

    assert "--tls-ca" in secure.err
    assert secure.err.count("\n") == 1


def test_tls_to_a_plain_collector_is_told(cli: Cli) -> None:
    assert cli("services", *CA) == 1

    assert "check that it speaks TLS" in cli.err
    assert cli.err.count("\n") == 1


def test_a_certificate_file_that_cannot_be_read_is_told(cli: Cli, tmp_path: Path) -> None:
    assert cli("services", "--tls-ca", str(tmp_path / "absent.pem")) == 1

    assert cli.err == f"glassbottom services: cannot read {tmp_path / 'absent.pem'}: No such file or directory.\n"
