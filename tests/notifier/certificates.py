"""A certificate authority of the test's own, and what it vouches for."""

import datetime
import ssl
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

DAY = datetime.timedelta(days=1)


class Authority:
    """Makes TLS contexts: of servers it vouches for, of clients that trust it and no other. `folder`: for its files."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._made = 0
        self.certificate = self._certificate("authority", self._key, (), is_authority=True)

    def server(self, *hosts: str, age_days: int = 0) -> ssl.SSLContext:
        """A server that is `hosts`; its certificate was good for a day before and after `age_days` ago."""
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = self._certificate(hosts[0], key, hosts, age_days=age_days)
        self._made += 1
        chain, private = self._folder / f"chain-{self._made}.pem", self._folder / f"key-{self._made}.pem"
        chain.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        private.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        server.load_cert_chain(chain, private)
        return server

    def client(self) -> ssl.SSLContext:
        return ssl.create_default_context(cadata=self.certificate.public_bytes(serialization.Encoding.PEM).decode())

    def _certificate(
        self,
        name: str,
        key: ec.EllipticCurvePrivateKey,
        hosts: tuple[str, ...],
        *,
        is_authority: bool = False,
        age_days: int = 0,
    ) -> x509.Certificate:
        now = datetime.datetime.now(datetime.UTC) - age_days * DAY
        builder = (
            x509.CertificateBuilder()
            .subject_name(_name(name))
            .issuer_name(_name("authority"))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - DAY)
            .not_valid_after(now + DAY)
            .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
            .add_extension(
                x509.SubjectAlternativeName([x509.DNSName(host) for host in hosts or (name,)]), critical=False
            )
            # Python 3.13 trusts no certificate without these.
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
            .add_extension(_usage(is_authority=is_authority), critical=True)
        )
        return builder.sign(self._key, hashes.SHA256())


def server_context(folder: Path, *hosts: str) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """TLS contexts of a server that is `hosts` and of a client that trusts its authority and no other."""
    authority = Authority(folder)
    return authority.server(*hosts), authority.client()


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _usage(*, is_authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not is_authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=is_authority,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )
