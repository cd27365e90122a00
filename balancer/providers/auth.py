"""Where a credential goes in a request: a bearer token, or a header of its own. Never the URL, which is logged."""

from __future__ import annotations

from collections.abc import Mapping


def in_header(secret_text: str, auth: str | Mapping[str, str]) -> tuple[bytes, bytes]:
    """The header for `auth`: `"bearer"`, or `{"header": name}`."""
    if isinstance(auth, str):
        return b"authorization", b"Bearer " + secret_text.encode("ascii")
    return auth["header"].lower().encode("ascii"), secret_text.encode("ascii")
