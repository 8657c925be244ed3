"""TLS contexts of links: TLS 1.3 only, an ephemeral self-signed certificate, no public authority.

TLS here gives confidentiality and a channel that only the holder of the certificate's key can terminate. *Who* that is
the handshake settles: both identities sign the certificate's hash (see `handshake`). So the certificate needs no name
and no issuer, and lives as long as the process.
"""

from __future__ import annotations

import datetime
import os
import ssl
import tempfile
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from blockcloud.primitives.errors import Unreachable
from blockcloud.primitives.hashes import sha256

CERTIFICATE_DAYS = 3_650


def new_certificate() -> tuple[bytes, bytes, bytes]:
    """(private key as PEM, certificate as PEM, SHA-256 of its DER form): new ones."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "blockcloud")])
    start = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=1)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + datetime.timedelta(days=CERTIFICATE_DAYS))
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    public = certificate.public_bytes(serialization.Encoding.PEM)
    return private, public, sha256(certificate.public_bytes(serialization.Encoding.DER))


def server_context() -> tuple[ssl.SSLContext, bytes]:
    """(context of a listener with a new certificate, SHA-256 of that certificate's DER form)."""
    private, public, certificate_hash = new_certificate()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.num_tickets = 0  # links are not resumed by TLS; two tickets a connection would be wasted
    _load(context, private + public)
    return context, certificate_hash


def _load(context: ssl.SSLContext, pem: bytes) -> None:
    """Load key and certificate; `ssl` takes them from a file only, so they pass through a private one."""
    descriptor, path = tempfile.mkstemp(prefix="blockcloud-tls-")  # mode 0600
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(pem)
        context.load_cert_chain(path)
    finally:
        Path(path).unlink()


def client_context() -> ssl.SSLContext:
    """Context of a dialler. It accepts any certificate: the handshake binds the certificate's hash to an identity."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def peer_certificate_hash(ssl_object: ssl.SSLObject | ssl.SSLSocket) -> bytes:
    """SHA-256 of the certificate that the TLS server of this connection showed. Raises Unreachable if none."""
    certificate = ssl_object.getpeercert(binary_form=True)
    if not certificate:
        raise Unreachable("the TLS peer showed no certificate")
    return sha256(certificate)
