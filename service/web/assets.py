"""The page's own files: read once, named one by one, sent with headers that let nothing else run."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

PAGE = "index.html"
# By suffix: what is served, and nothing but that.
_MEDIA = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
# Scripts, styles and calls come from this server only; nothing is framed, posted elsewhere, or made of a string.
_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)
SECURITY_HEADERS: Mapping[str, str] = {
    "content-security-policy": _POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}


@dataclass(frozen=True)
class Asset:
    """One file.

    Attributes:
        body: its bytes.
        media: its content type.
        etag: changes with the bytes.
    """

    body: bytes
    media: str
    etag: str

    @property
    def headers(self) -> dict[str, str]:
        """What is sent with it; browsers ask each time whether it changed."""
        return {**SECURITY_HEADERS, "cache-control": "no-cache", "etag": self.etag}


def load_assets() -> Mapping[str, Asset]:
    """Every file of the page by its name."""
    files = (file for file in sorted(Path(__file__).parent.iterdir()) if file.suffix in _MEDIA)
    return {file.name: _asset(file) for file in files}


def _asset(file: Path) -> Asset:
    body = file.read_bytes()
    return Asset(body, _MEDIA[file.suffix], f'"{hashlib.blake2b(body, digest_size=12).hexdigest()}"')
