"""TLS 1.3 of the control stream: certificates are only envelopes of an Ed25519 key, there is no authority and no name.

The operator's certificate is a pure function of its key, so that it can stand in a pod's arguments before anybody has connected. The
server's key is made at birth and known by the SHA-256 of its SubjectPublicKeyInfo, which the sandbox statement fixes.
"""

import datetime
import hashlib
import os
import ssl

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from cryptography.x509.oid import NameOID

from veilpod.errors import InvalidInput

# Fixed, or the certificate would differ from one derivation to the next. The end is RFC 5280's "no well-defined expiration date": what
# ends a control key is the chain key it is derived from.
_NOT_BEFORE = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
_NOT_AFTER = datetime.datetime(9999, 12, 31, 23, 59, 59, tzinfo=datetime.UTC)
_NAME = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "veilpod control")])


def control_certificate(key: Ed25519PrivateKey) -> bytes:
    """Make the self-signed certificate (DER) of a control key: the same bytes each time, Ed25519 signatures being deterministic."""
    public = key.public_key()
    # A serial number of a CA is unique; here it is a digest of the key (positive, 20 bytes at most).
    serial = int.from_bytes(hashlib.sha256(_spki(key)).digest()[:19], "big") | 1
    builder = (
        x509.CertificateBuilder()
        .subject_name(_NAME)
        .issuer_name(_NAME)
        .public_key(public)
        .serial_number(serial)
        .not_valid_before(_NOT_BEFORE)
        .not_valid_after(_NOT_AFTER)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    )
    return builder.sign(key, None).public_bytes(Encoding.DER)


def tls_key_of(certificate: bytes) -> bytes:
    """SHA-256 of a DER certificate's SubjectPublicKeyInfo: the `tlsKey` of a statement. 32 bytes."""
    public = x509.load_der_x509_certificate(certificate).public_key()
    return hashlib.sha256(public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).digest()


def server_context(key: Ed25519PrivateKey, operator_certificate: bytes) -> ssl.SSLContext:
    """TLS for the server: exactly one client certificate in the world is accepted. Raises InvalidInput("InvalidOperatorCertificate")."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    # No session is ever resumed: a ticket would be one more secret, and links live long.
    context.num_tickets = 0
    try:
        context.load_verify_locations(cadata=operator_certificate)
    except (ssl.SSLError, ValueError) as error:
        raise InvalidInput("InvalidOperatorCertificate", "the operator's certificate is no DER certificate") from error
    _load(context, key)
    return context


def client_context(key: Ed25519PrivateKey) -> ssl.SSLContext:
    """TLS for the operator. The server's key is compared by who connects, against the pin; there is no chain to verify."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    _load(context, key)
    return context


def _load(context: ssl.SSLContext, key: Ed25519PrivateKey) -> None:
    # The ssl module reads keys from files only. A memfd is a file that never had a name, and is wiped before it is closed.
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    certificate = ssl.DER_cert_to_PEM_cert(control_certificate(key)).encode()
    descriptor = os.memfd_create("control", os.MFD_CLOEXEC)
    try:
        os.write(descriptor, pem + certificate)
        context.load_cert_chain(f"/proc/self/fd/{descriptor}")
    finally:
        os.pwrite(descriptor, bytes(len(pem)), 0)
        os.close(descriptor)


def _spki(key: Ed25519PrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
