"""Certificates for tests, made when they are needed: an authority, and what it signs."""

from __future__ import annotations

import datetime
import ipaddress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

__all__ = ["Authority", "Certificate"]

_LIFETIME: Final = datetime.timedelta(days=1)


@dataclass(frozen=True)
class Certificate:
    """Files in PEM.

    Attributes:
        certificate: The certificate.
        key: Its private key, encrypted where a password was given.
        both: The key and the certificate in one file, as Kafka's PEM key store wants it.
    """

    certificate: Path
    key: Path
    both: Path


class Authority:
    """A certificate authority of its own.

    Args:
        folder: Where its files are written.
        name: Its common name, and what its files begin with.

    Attributes:
        certificate: What a client must trust.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _subject(name)
        constraints = x509.BasicConstraints(ca=True, path_length=0)
        own = (
            _builder(self._name, self._name, self._key.public_key())
            .add_extension(constraints, critical=True)
            .sign(self._key, hashes.SHA256())
        )
        self.certificate = folder / f"{name}.pem"
        self.certificate.write_bytes(own.public_bytes(serialization.Encoding.PEM))

    def issue(self, name: str, address: str | None = None, password: str = "") -> Certificate:
        """Sign a certificate.

        Args:
            name: Its common name; the principal of a client.
            address: The IP address of a server, or None for a client's certificate.
            password: Encrypts the file with the private key.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        usage = (
            ExtendedKeyUsageOID.CLIENT_AUTH if address is None else ExtendedKeyUsageOID.SERVER_AUTH
        )
        builder = _builder(_subject(name), self._name, key.public_key()).add_extension(
            x509.ExtendedKeyUsage([usage]), critical=False
        )
        if address is not None:
            names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address))])
            builder = builder.add_extension(names, critical=False)
        certificate = builder.sign(self._key, hashes.SHA256()).public_bytes(
            serialization.Encoding.PEM
        )
        private = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(password.encode())
            if password
            else serialization.NoEncryption(),
        )
        files = Certificate(
            *(self._folder / f"{name}.{kind}" for kind in ("pem", "key", "both.pem"))
        )
        files.certificate.write_bytes(certificate)
        files.key.write_bytes(private)
        files.both.write_bytes(private + certificate)
        return files


def _subject(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.timezone.utc)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _LIFETIME)
        .not_valid_after(now + _LIFETIME)
    )
