"""What the rest of the package asks of a provider: a response's bytes in, `Evidence` out; and the providers there are."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Protocol

from balancer.core.outcome import Evidence, LimitSeen
from balancer.providers.anthropic import Anthropic
from balancer.providers.http import PlainHTTP
from balancer.providers.openai import OpenAI
from balancer.providers.values import Headers


class Provider(Protocol):
    """How one kind of backend is spoken to and what its answers mean. Pure: it keeps nothing between two answers."""

    @property
    def name(self) -> str:
        """The name that a configuration uses."""
        ...

    @property
    def base_url(self) -> str | None:
        """Where it is, unless the account says otherwise; `None` if only the account can say."""
        ...

    @property
    def dialects(self) -> frozenset[str]:
        """Names of the dialects its accounts speak."""
        ...

    @property
    def extra_headers(self) -> tuple[tuple[bytes, bytes], ...]:
        """Sent where the caller gave no header of that name."""
        ...

    def credential_header(self, secret_text: str, auth: str | Mapping[str, str]) -> tuple[bytes, bytes]:
        """The header that carries the credential; `auth` is `""` for the provider's way, `"bearer"` or `{"header": name}`."""
        ...

    def limits_seen(self, headers: Headers) -> tuple[LimitSeen, ...]:
        """The limits that the response's headers show."""
        ...

    def evidence(self, status: int, headers: Headers, body: bytes, now: float) -> Evidence:
        """What a response tells about its account, at trio time `now`. Any status, any bytes: it never raises."""
        ...

    def evidence_of_error(self, body: bytes, now: float) -> Evidence:
        """What an error inside an answer tells, whose status said nothing of it."""
        ...


def _by_name(*providers: Provider) -> Mapping[str, Provider]:
    return MappingProxyType({provider.name: provider for provider in providers})


PROVIDERS = _by_name(OpenAI(), Anthropic(), PlainHTTP())
"""Every provider by its name."""


def get_provider(name: str) -> Provider:
    """The provider of that name. Raises `KeyError`."""
    return PROVIDERS[name]
