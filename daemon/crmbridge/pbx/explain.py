"""What went wrong with a connection to Asterisk, in an administrator's words. Pure."""

from __future__ import annotations

import socket
import ssl

_NO_TLS = ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE")
"""How OpenSSL calls it (up to 3.1, and since) when the other end's answer is no TLS."""
_EXPIRED, _OTHER_NAME = (9, 10), (62, 64)
"""X509_V_ERR_…: not yet valid, has expired; host name, IP address does not match (openssl/x509_vfy.h)."""


def explain(error: BaseException) -> str:
    """What a connection error means, and where to look."""
    if isinstance(error, ssl.SSLError):
        return _explain_tls(error)
    for kind, told in _TOLD.items():
        if isinstance(error, kind):
            return told
    return str(error) or type(error).__name__


_TOLD: dict[type[BaseException], str] = {
    TimeoutError: "no answer: does Asterisk run there, and does a firewall let us through?",
    ConnectionRefusedError: "connection refused: does Asterisk run, with enabled = yes and this port in manager.conf?",
    ConnectionResetError: "the connection was reset: does something between us and Asterisk, or a ban, end it?",
    PermissionError: "this machine does not let us connect there: is it a firewall here, or the sandbox?",
    socket.gaierror: "ami.host is not known: check the name, and DNS",
}


def _explain_tls(error: ssl.SSLError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return _explain_certificate(error)
    if error.reason in _NO_TLS:
        return "no TLS is spoken on this port: is ami.port the one of tlsbindaddr in manager.conf (usually 5039)?"
    return f"TLS failed ({error}): check ami.tls, ami.ca_file and Asterisk's tlscertfile"


def _explain_certificate(error: ssl.SSLCertVerificationError) -> str:
    told = f"Asterisk's certificate is not accepted: {error.verify_message}"
    if error.verify_code in _EXPIRED:
        return f"{told}. Renew tlscertfile on the PBX and load it (module reload manager), or set the clock right"
    if error.verify_code in _OTHER_NAME:
        return f"{told}. Set ami.host to a name that the certificate has, or make one for the name in ami.host"
    return f"{told}. Set ami.ca_file to the certificate of the authority that issued Asterisk's tlscertfile"
