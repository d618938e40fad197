"""Certificates for tests of TLS."""

import subprocess
from pathlib import Path

import pytest


def make_certificate(cert: Path, key: Path) -> None:
    """A new key, and a certificate for this machine that it signed itself. Skips the test where
    there is no openssl."""
    command = ("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256")
    subject = ("-nodes", "-days", "2", "-subj", "/CN=localhost")
    names = ("-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1")
    files = ("-keyout", str(key), "-out", str(cert))
    try:
        subprocess.run([*command, *subject, *names, *files], check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("needs the openssl command")
