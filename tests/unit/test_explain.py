"""What went wrong with a connection, in an administrator's words."""

from __future__ import annotations

import socket
import ssl

import pytest

from crmbridge.pbx.explain import explain


def of_certificate(code: int, message: str) -> ssl.SSLCertVerificationError:
    error = ssl.SSLCertVerificationError(1, "certificate verify failed")
    error.verify_code, error.verify_message = code, message
    return error


def of_tls(reason: str) -> ssl.SSLError:
    error = ssl.SSLError(1, f"[SSL: {reason}]")
    error.reason = reason
    return error


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (TimeoutError(), "firewall"),
        (ConnectionRefusedError(111, "Connection refused"), "does Asterisk run"),
        (ConnectionResetError(104, "Connection reset by peer"), "ban"),
        (PermissionError(1, "Operation not permitted"), "firewall here"),
        (socket.gaierror(-2, "Name or service not known"), "DNS"),
        (of_certificate(10, "certificate has expired"), "Renew"),
        (of_certificate(9, "certificate is not yet valid"), "clock"),
        (of_certificate(62, "Hostname mismatch"), "ami.host"),
        (of_certificate(64, "IP address mismatch"), "ami.host"),
        (of_certificate(18, "self-signed certificate"), "ami.ca_file"),
        (of_certificate(20, "unable to get local issuer certificate"), "ami.ca_file"),
        (of_tls("WRONG_VERSION_NUMBER"), "5039"),
        (of_tls("RECORD_LAYER_FAILURE"), "5039"),
        (of_tls("NO_SHARED_CIPHER"), "tlscertfile"),
        (OSError(113, "No route to host"), "No route to host"),
        (EOFError(), "EOFError"),
    ],
)
def test_each_mistake_says_where_to_look(error: BaseException, words: str) -> None:
    assert words in explain(error)
