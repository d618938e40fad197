"""The files of TLS: tried before they are used, and read again while the server runs."""

import logging
import os
import ssl
from pathlib import Path

from server.errors import ConfigError

_logger = logging.getLogger(__name__)


def check_tls(certfile: Path | None, keyfile: Path | None) -> None:
    """Tries the files of TLS, so that errors in them show before a model is loaded.

    Raises:
        ConfigError: a file is missing, or the two don't make a certificate with its key.
    """
    if certfile is None:
        if keyfile is not None:
            raise ConfigError("ssl_keyfile", str(keyfile), "needs ssl_certfile")
        return
    for name, file in (("ssl_certfile", certfile), ("ssl_keyfile", keyfile)):
        if file is not None and not file.is_file():
            raise ConfigError(name, str(file), "no such file")
    try:
        _load(ssl.create_default_context(ssl.Purpose.CLIENT_AUTH), certfile, keyfile)
    except OSError as error:  # ssl.SSLError too
        name, file = ("ssl_keyfile", keyfile) if keyfile else ("ssl_certfile", certfile)
        reason = f"no certificate (PEM) with its unencrypted key: {error.strerror or error}"
        raise ConfigError(name, str(file), reason) from None


def read_again(
    context: ssl.SSLContext,
    certfile: str | os.PathLike[str],
    keyfile: str | os.PathLike[str] | None,
) -> None:
    """Gives connections from now on what the files hold now; open ones keep what they have. Files
    that make no sense change nothing, and are logged."""
    cert, key = Path(certfile), None if keyfile is None else Path(keyfile)
    try:
        check_tls(cert, key)  # in a context of its own: a failure would spoil the one in use
        _load(context, cert, key)
    except (ConfigError, OSError) as error:
        _logger.error("%s; the last certificate stays in use", error)
    else:
        _logger.info("%s: read the certificate", certfile)


def _load(context: ssl.SSLContext, certfile: Path, keyfile: Path | None) -> None:
    # The password is one that no key has: without it OpenSSL would ask on the terminal.
    context.load_cert_chain(certfile, keyfile, password="")
