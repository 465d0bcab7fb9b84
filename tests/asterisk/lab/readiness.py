"""Waiting for a server to say that it is ready, in the way it would say so to systemd (sd_notify)."""

from __future__ import annotations

import os
import select
import socket
import subprocess


def says_ready(process: subprocess.Popen[bytes], told: socket.socket, *, timeout_s: float) -> bool:
    """Wait for READY=1 on the server's NOTIFY_SOCKET; False when it ended, or was not ready in time."""
    ended = os.pidfd_open(process.pid)
    try:
        poll = select.poll()
        poll.register(ended, select.POLLIN)
        poll.register(told, select.POLLIN)
        while (happened := dict(poll.poll(timeout_s * 1000))) and ended not in happened:
            if b"READY=1" in told.recv(4096):
                return True
    finally:
        os.close(ended)
    return False
