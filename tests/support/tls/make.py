"""Makes the certificates beside this file: an authority, a server for 127.0.0.1 and localhost, a client, and an
authority that signed nothing.

    pip install cryptography && python tests/support/tls/make.py

They are committed so that tests need neither openssl nor this script, are valid from 2020 to 2120, and guard nothing.
"""

from __future__ import annotations

import datetime
import ipaddress
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

HERE = Path(__file__).parent


def main() -> None:
    """Writes NAME.pem and, for server and client, NAME.key."""
    ca_key, ca_name = ec.generate_private_key(ec.SECP256R1()), name("ca")
    write("ca", certificate(ca_name, ca_key, ca_name, ca_key, authority=True))
    stranger_key = ec.generate_private_key(ec.SECP256R1())
    write("stranger", certificate(name("stranger"), stranger_key, name("stranger"), stranger_key, authority=True))
    for who in ("server", "client"):
        key = ec.generate_private_key(ec.SECP256R1())
        write(who, certificate(name(who), key, ca_name, ca_key, authority=False))
        (HERE / f"{who}.key").write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )


def name(who: str) -> x509.Name:
    """A subject."""
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, f"glassbottom test {who}")])


def certificate(
    subject: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    issuer: x509.Name,
    issuer_key: ec.EllipticCurvePrivateKey,
    authority: bool,
) -> x509.Certificate:
    """Signed; good for both ends of a connection on the loopback interface."""
    names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC))
        .not_valid_after(datetime.datetime(2120, 1, 1, tzinfo=datetime.UTC))
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .sign(issuer_key, hashes.SHA256())
    )


def write(who: str, certificate: x509.Certificate) -> None:
    """As PEM."""
    (HERE / f"{who}.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))


if __name__ == "__main__":
    main()
