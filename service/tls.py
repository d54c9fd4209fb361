"""Certificates: what both ports show, and whose clients must show one."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path

import grpc

from .config import ConfigError, Settings


@dataclass(frozen=True)
class Tls:
    """PEM files of a server.

    Attributes:
        client_ca: who signs clients' certificates; None where clients need none.
    """

    cert: Path
    key: Path
    client_ca: Path | None

    @classmethod
    def of(cls, settings: Settings) -> Tls | None:
        """Return what the settings say, None for plain text; raises ConfigError for files that cannot be used."""
        if settings.tls_cert is None or settings.tls_key is None:
            return None
        made = cls(settings.tls_cert, settings.tls_key, settings.tls_client_ca)
        for name, file in (("tls_cert", made.cert), ("tls_key", made.key), ("tls_client_ca", made.client_ca)):
            if file is not None and not file.is_file():
                raise ConfigError(f"setting {name}: there is no file {file}")
        try:
            made.context()
        except (ssl.SSLError, OSError) as error:
            why = getattr(error, "reason", None) or str(error)
            raise ConfigError(f"the certificate {made.cert} and the key {made.key} cannot be used: {why}") from None
        return made

    def context(self) -> ssl.SSLContext:
        """For HTTP, TLS 1.2 or newer; raises ssl.SSLError, OSError."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_cert_chain(self.cert, self.key)
        context.set_alpn_protocols(["http/1.1"])
        if self.client_ca is not None:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(self.client_ca)
        return context

    def credentials(self) -> grpc.ServerCredentials:
        """For gRPC."""
        ca = self.client_ca.read_bytes() if self.client_ca is not None else None
        return grpc.ssl_server_credentials(
            [(self.key.read_bytes(), self.cert.read_bytes())], ca, require_client_auth=ca is not None
        )
