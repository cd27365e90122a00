"""What the rest of the package asks of a provider: a response's bytes in, `Evidence` out; and the providers there are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Protocol

from balancer.core.limits import NO_PRESETS, Presets
from balancer.core.outcome import Evidence, LimitSeen
from balancer.providers.anthropic import Anthropic
from balancer.providers.compatible import AZURE, BEDROCK, CEREBRAS, GEMINI, GROQ, MISTRAL, OPENROUTER, VLLM
from balancer.providers.http import PlainHTTP
from balancer.providers.openai import OPENAI
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

    @property
    def shows_limits(self) -> bool:
        """Whether it is known to have limits and to show them in its answers: then the first answer is worth waiting for."""
        ...

    @property
    def counting(self) -> Presets:
        """How it counts, as far as that is known; an account's settings go before it."""
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


PROVIDERS = _by_name(OPENAI, Anthropic(), PlainHTTP(), AZURE, BEDROCK, CEREBRAS, GEMINI, GROQ, MISTRAL, OPENROUTER, VLLM)
"""Every provider by its name."""


def common_counting(names: Iterable[str]) -> Presets:
    """How the providers of these names count what their accounts share: as one of them does if they are the same, else nothing is
    known."""
    different = set(names)
    return get_provider(different.pop()).counting if len(different) == 1 else NO_PRESETS


def get_provider(name: str) -> Provider:
    """The provider of that name. Raises `KeyError`."""
    return PROVIDERS[name]
