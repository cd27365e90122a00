"""The two clients that the demo compares: httpx on the balancer's transport, and httpx that takes the accounts in turn."""

from __future__ import annotations

import itertools
import json
from collections.abc import Awaitable, Callable, Sequence

import httpx

from balancer.config import BalancerConfig
from balancer.core.decision import Decision
from balancer.core.settings import Account
from balancer.nursery import BalancerNursery
from balancer.providers.provider import get_provider
from balancer.testing.traffic import Arrival, Kind

Serve = Callable[[Arrival], Awaitable[str | None]]

TRIES = 3
"""Of round robin per call: as many as the balancer's `max_attempts` by default."""
_DIALECTS = {"openai": "chat", "anthropic": "messages"}


def kinds_of(accounts: Sequence[Account], model: str) -> list[Kind]:
    """Every kind of call that some account takes; `model` is asked for where an account takes any."""
    kinds: dict[Kind, None] = {}
    for account in accounts:
        for name in (model,) if account.models is None else account.models:
            kinds[Kind("messages" if account.provider == "anthropic" else "chat", name)] = None
    return list(kinds)


def balanced(balancer: BalancerNursery, client: httpx.AsyncClient) -> Serve:
    """Calls through a client on the balancer's transport."""

    async def serve(arrival: Arrival) -> str | None:
        try:
            response = await client.post(f"http://balancer/v1{arrival.kind.path}", json=arrival.body(arrival.kind.model))
        except httpx.TransportError:
            return None
        decision: Decision | None = response.extensions.get("balancer")
        if decision is None or not decision.attempts or not _whole(response):
            return None
        return decision.attempts[-1].account

    return serve


def in_turn(config: BalancerConfig, client: httpx.AsyncClient) -> Serve:
    """Calls to the accounts in turn; what was refused or went wrong is tried at once on the next one, `TRIES` in all."""
    turns = itertools.count()

    async def serve(arrival: Arrival) -> str | None:
        kind = arrival.kind
        able = [account for account in config.accounts if _takes(account, kind)]
        for _ in range(TRIES):
            account = able[next(turns) % len(able)]
            name = account.model_name(kind.model) or kind.model
            secret = account.keys[0].reveal() if account.keys else ""
            header, value = get_provider(account.provider).credential_header(secret, account.auth)
            try:
                response = await client.post(
                    f"{account.base_url}{kind.path}", json=arrival.body(name), headers=[(header, value)]
                )
            except httpx.TransportError:
                continue
            if _whole(response):
                return account.name
            if 400 <= response.status_code < 500 and response.status_code != 429:
                return None
        return None

    return serve


def _takes(account: Account, kind: Kind) -> bool:
    return _DIALECTS.get(account.provider) == kind.dialect and account.model_name(kind.model) is not None


def _whole(response: httpx.Response) -> bool:
    """Whether this is an answer, not a page of HTML or half of one."""
    if response.status_code != 200:
        return False
    try:
        return isinstance(json.loads(response.content), dict)
    except ValueError:
        return False
