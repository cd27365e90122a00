"""The scenarios of quota: each is traffic, backends and a configuration with what they must reach, on any seed.

Tests run them short and on few seeds, the benchmark long and on more: the same goals, judged by what the backends recorded.
"""

from __future__ import annotations

from typing import Any, Literal

import attrs

from balancer.core.call import Demand
from balancer.testing.mock.latency import Uniform
from balancer.testing.simulation import (
    Arrivals,
    CallClass,
    CallMix,
    Report,
    SimulatedBackend,
    SimulatedLimit,
    backlog,
    log_uniform,
    off_by,
    poisson,
    simulate,
)
from balancer.testing.simulation.limits import find_overruns
from balancer.testing.simulation.signals import MIDNIGHT
from benchmarks.figures import figures, largest_lead, packed_in_order, refusals_each
from benchmarks.scenario import (
    DAY,
    LARGEST,
    LATENCY,
    MEAN,
    MINUTE,
    MIXED_SIZES,
    MOST_USED,
    MOSTLY_USED,
    NEVER_OVER,
    NONE_REFUSED,
    REQUESTS,
    TOKENS,
    Goal,
    Scenario,
    Shown,
    Window,
    backends,
    configured,
    pressed,
    traffic,
)
from benchmarks.transported import simulate_transported

UTC_TO_LOS_ANGELES = 7 * 3600.0
"""Seconds by which the simulation's days begin later in Los Angeles, which has its summer time then."""


# -- limits that are known --------------------------------------------------------------------------------------------------


def known(
    window: Window,
    burst: int | None = None,
    *,
    shape: str = "poisson",
    load: float = 3.0,
    headers: Shown = "honest",
    seconds: float = 600.0,
) -> Scenario:
    """60 requests a minute on each of two accounts: none is refused; while calls wait, nearly all are used."""
    config = configured("ab", {"requests_per_minute": REQUESTS, "window": window, **({"burst": burst} if burst else {})})
    providers = backends("ab", [SimulatedLimit("requests", REQUESTS, MINUTE, window, burst)], headers=headers)
    kind = CallClass("any")
    arrivals = (
        pressed(kind, 2 * REQUESTS, load)
        if shape == "poisson" and load > 1.0
        else [Arrivals(traffic(shape, load * 2 * REQUESTS), kind)]
    )

    def run(seed: int) -> dict[str, float]:
        return figures(simulate(config, providers, arrivals, seed=seed, for_seconds=seconds), MINUTE)

    how = window if burst is None else f"{window} of {burst}"
    goals = NONE_REFUSED if load < 1.5 else (*NONE_REFUSED, *MOST_USED)
    return Scenario(f"known requests, {how}, {shape} at {load:g}x, headers {headers}", run, goals)


def known_tokens(window: Window, *, headers: Shown = "honest", load: float = 3.0, seconds: float = 300.0) -> Scenario:
    """100,000 tokens a minute, and known demands of at most 3 % of that."""
    config = configured("ab", {"tokens_per_minute": TOKENS, "window": window})
    providers = backends("ab", [SimulatedLimit("tokens", TOKENS, MINUTE, window)], headers=headers)
    arrivals = pressed(MIXED_SIZES, 2 * TOKENS / MEAN, load)

    def run(seed: int) -> dict[str, float]:
        return figures(simulate(config, providers, arrivals, seed=seed, for_seconds=seconds), MINUTE)

    return Scenario(f"known tokens, {window}, at {load:g}x, headers {headers}", run, (*NONE_REFUSED, *MOST_USED))


def packed(window: Window, low: float, high: float, *, seconds: float = 600.0) -> Scenario:
    """Large demands, from `low` to `high` of the limit each: held to the best packing that keeps the order of the calls.

    The best packing is that of an exact counter that knows every amount and works without latency (`packed_in_order`).
    """
    limit = SimulatedLimit("tokens", TOKENS, MINUTE, window)
    config, providers = configured("a", {"tokens_per_minute": TOKENS, "window": window}), backends("a", [limit])
    sizes = CallClass("large", lambda rng: Demand(rng.randint(round(low * TOKENS), round(high * TOKENS))))
    arrivals = Arrivals(poisson(3.0 / ((low + high) / 2)), sizes)

    def run(seed: int) -> dict[str, float]:
        report = simulate(config, providers, arrivals, seed=seed, for_seconds=seconds)
        best = packed_in_order([(call.arrived_at, call.demand.tokens) for call in report.calls], limit, seconds)
        found = figures(report, MINUTE)
        possible = sum(amount for at, amount in best if at >= MINUTE) / (TOKENS * (seconds - MINUTE) / MINUTE)
        return {**found, "packing": possible, "used_of_packing": found["used"] / possible}

    goals = (*NONE_REFUSED, Goal("used_of_packing", 0.97, least=True), Goal("waiting_ratio", 0.99, least=True))
    return Scenario(f"large demands, {low:.0%} to {high:.0%}, {window}", run, goals)


def input_and_output(*, load: float = 3.0, seconds: float = 300.0) -> Scenario:
    """Input and output limits at once, beside requests: input is adjusted, output counted as it is produced."""
    limits = {"requests_per_minute": 100, "input_tokens_per_minute": 50_000, "output_tokens_per_minute": 10_000}
    providers = backends(
        "a",
        [
            SimulatedLimit("requests", 100),
            SimulatedLimit("input_tokens", 50_000, charged="adjusted"),
            SimulatedLimit("output_tokens", 10_000, charged="produced"),
        ],
        provider="anthropic",
    )
    mix = CallMix(  # of which 87 a minute produce an account's output, and nearly use its input
        CallClass("reads", lambda rng: Demand(rng.randint(200, 1500), rng.randint(10, 100))),
        CallClass("writes", lambda rng: Demand(rng.randint(50, 200), rng.randint(50, 300))),
    )

    def run(seed: int) -> dict[str, float]:
        config = configured("a", limits, provider="anthropic")
        return figures(simulate(config, providers, pressed(mix, 87, load), seed=seed, for_seconds=seconds), MINUTE)

    return Scenario("input and output limits at once", run, (*NONE_REFUSED, *MOST_USED))


def wrong_estimates(
    factor: float | None,
    window: Window = "bucket",
    *,
    headers: Shown = "honest",
    charged: Literal["start", "adjusted", "produced", "max_tokens"] = "start",
    latency: Uniform = LATENCY,
    load: float = 3.0,
    seconds: float = 300.0,
) -> Scenario:
    """Calls take `factor` of what they demand; `None`: drawn for each, log-uniform in [1/2, 2]. A provider that counts all of the truth
    at the start looks to an account like one that adjusts."""
    limits = {"tokens_per_minute": TOKENS, "window": window, "charged": "adjusted" if charged == "start" else charged}
    config = configured("a", limits)
    limit = SimulatedLimit("tokens", TOKENS, MINUTE, window, charged=charged)
    providers = backends("a", [limit], headers=headers, latency=latency)
    wrong = attrs.evolve(MIXED_SIZES, truth=off_by(log_uniform(0.5, 2.0) if factor is None else factor))
    arrivals = pressed(wrong, TOKENS / MEAN / (factor or 1.0), load)

    def run(seed: int) -> dict[str, float]:
        return figures(simulate(config, providers, arrivals, seed=seed, for_seconds=seconds), MINUTE)

    how = "1/2 to 2 at random" if factor is None else f"all {factor:g}"
    counted = {"start": "at the start", "max_tokens": "by max_tokens"}.get(charged, charged)
    name = f"wrong estimates, truth {how}, {window}, {counted}, headers {headers}, answers of {latency.low:g} to {latency.high:g} s"
    return Scenario(name, run, (Goal("refused_ratio", 0.01), Goal("unexpected", 0), *MOSTLY_USED))


# -- limits that are not ----------------------------------------------------------------------------------------------------


def unknown(
    window: Window,
    burst: int | None = None,
    *,
    provider: Literal["openai", "anthropic"] = "openai",
    headers: Literal["honest", "rounded"] = "honest",
    transported: bool = False,
    seconds: float = 240.0,
) -> Scenario:
    """Nothing is configured and headers are honest: at most one refusal per account and dimension, however small the burst, and most of
    the quota is used."""
    limits = [SimulatedLimit("requests", REQUESTS, MINUTE, window, burst), SimulatedLimit("tokens", TOKENS, MINUTE, window)]
    if provider == "anthropic":
        limits[1:] = [SimulatedLimit("input_tokens", TOKENS), SimulatedLimit("output_tokens", TOKENS)]
    config, providers = configured("ab", {}, provider=provider), backends("ab", limits, provider=provider, headers=headers)
    arrivals = Arrivals(poisson(3 * 2 * REQUESTS), CallClass("any", lambda rng: Demand(rng.randint(100, 4000), 100)))

    def run(seed: int) -> dict[str, float]:
        drive = simulate_transported if transported else simulate
        report = drive(config, providers, arrivals, seed=seed, for_seconds=seconds)
        return {**figures(report, MINUTE), "refusals_each": refusals_each(report)}

    how = window if burst is None else f"{window} of {burst}"
    name = f"unknown limits, {how}, {provider}'s headers, {headers}{', through a transport' if transported else ''}"
    return Scenario(name, run, (Goal("refusals_each", 1), *NEVER_OVER, Goal("used", 0.9, least=True)))


def unknown_models(
    window: Window,
    *,
    shared: bool = False,
    headers: Literal["honest", "rounded"] = "honest",
    provider: Literal["openai", "anthropic"] = "openai",
    seconds: float = 240.0,
) -> Scenario:
    """The same of two models that show the same amounts, each of its own limits or, if `shared`, both of one: all of every limit is
    used once it is known which, and it costs no more refusals."""
    limits = [
        SimulatedLimit(dimension, amount, MINUTE, window, model=model)
        for model in ((None,) if shared else ("large", "small"))
        for dimension, amount in (("requests", REQUESTS), ("tokens", TOKENS))
    ]
    config, providers = configured("a", {}, provider=provider), backends("a", limits, provider=provider, headers=headers)
    sizes = CallClass("any", lambda rng: Demand(rng.randint(100, 4000), 100))
    arrivals = [Arrivals(poisson(3 * REQUESTS), attrs.evolve(sizes, model=model)) for model in ("large", "small")]

    def run(seed: int) -> dict[str, float]:
        report = simulate(config, providers, arrivals, seed=seed, for_seconds=seconds)
        return {**figures(report, 2 * MINUTE), "refusals_each": refusals_each(report)}

    name = f"unknown limits, {window}, {'shared by two models' if shared else 'of two models'}, {provider}'s headers, {headers}"
    return Scenario(name, run, (Goal("refusals_each", 1), *NEVER_OVER, *MOSTLY_USED))


def unseen(
    window: Literal["bucket", "sliding", "fixed"],
    burst: int | None = None,
    *,
    dimension: Literal["requests", "tokens"] = "requests",
    retry_after: bool = False,
    named: bool = True,
    load: float = 3.0,
    seconds: float = 1500.0,
) -> Scenario:
    """Nothing is configured and no header shows anything; whether refusals say when to come back, and over what they are."""
    amount = REQUESTS if dimension == "requests" else TOKENS
    limit = SimulatedLimit(dimension, amount, MINUTE, window, burst)
    providers = backends("a", [limit], headers="absent", retry_after=retry_after, names_dimension=named)
    config = configured("a", {})
    arrivals = (
        pressed(CallClass("any"), REQUESTS, load) if dimension == "requests" else pressed(MIXED_SIZES, TOKENS / MEAN, load)
    )

    def run(seed: int) -> dict[str, float]:
        return figures(simulate(config, providers, arrivals, seed=seed, for_seconds=seconds), 5 * MINUTE)

    how = window if burst is None else f"{window} of {burst}"
    goals = (Goal("refused_ratio", 0.03), Goal("unexpected", 0), *MOSTLY_USED)
    more = f"{', Retry-After' if retry_after else ''}{'' if named else ', not named'}"
    return Scenario(f"no headers, {dimension}, {how}{more}", run, goals)


# -- who waits --------------------------------------------------------------------------------------------------------------


def tenants_wait(*, load: float = 3.0, seconds: float = 300.0) -> Scenario:
    """Two tenants, one sends 10 times the other's tokens, `load` times the quota in all: the small one waits as if it had half."""

    def config(share: float) -> dict[str, Any]:
        return configured("ab", {"tokens_per_minute": TOKENS * share})

    def providers(share: float) -> dict[str, SimulatedBackend]:
        return backends("ab", [SimulatedLimit("tokens", TOKENS * share)])

    per_minute = load * 2 * TOKENS / MEAN
    small = Arrivals(poisson(per_minute / 11), attrs.evolve(MIXED_SIZES, tenant="small"))
    big = Arrivals(poisson(per_minute * 10 / 11), attrs.evolve(MIXED_SIZES, tenant="big"))

    def mean_wait(report: Report) -> float:
        waits = [call.waited_for for call in report.calls if call.tenant == "small"]
        return sum(waits) / len(waits)

    def run(seed: int) -> dict[str, float]:
        both = simulate(config(1.0), providers(1.0), [small, big], seed=seed, for_seconds=seconds)
        alone = simulate(config(0.5), providers(0.5), [small], seed=seed, for_seconds=seconds)
        in_hand = 2 * LARGEST / (2 * TOKENS / MINUTE)  # seconds that one demand of either takes of both accounts
        excess = mean_wait(both) - mean_wait(alone)
        return {**figures(both, MINUTE), "wait": mean_wait(both), "wait_alone": mean_wait(alone), "excess": excess / in_hand}

    return Scenario("two tenants 10 to 1, the small one's wait", run, (*NONE_REFUSED, *MOST_USED, Goal("excess", 1.0)))


def tenants_share(*, calls: int = 300, seconds: float = 600.0) -> Scenario:
    """Two tenants wait with a backlog each: over no span are they given amounts that differ by more than two largest demands."""
    arrivals = [
        Arrivals(backlog(calls // 10), attrs.evolve(MIXED_SIZES, tenant="small")),
        Arrivals(backlog(calls), attrs.evolve(MIXED_SIZES, tenant="big")),
    ]
    config, providers = configured("ab", {"tokens_per_minute": TOKENS}), backends("ab", [SimulatedLimit("tokens", TOKENS)])

    def run(seed: int) -> dict[str, float]:
        report = simulate(config, providers, arrivals, seed=seed, for_seconds=seconds)
        amounts = {call.number: float(call.demand.tokens) for call in report.calls}
        lead = largest_lead(report.calls, ("small", "big"), amounts)
        return {**figures(report, 0.0), "lead": lead / max(amounts.values())}

    return Scenario("two tenants with backlogs, the most either leads", run, (*NONE_REFUSED, Goal("lead", 2.0)))


# -- what accounts are limited by -------------------------------------------------------------------------------------------


def models(*, load: float = 3.0, seconds: float = 300.0) -> Scenario:
    """Limits of single models: each model's calls use up its own."""
    limits = {"models": {"large": {"requests_per_minute": 30}, "small": {"requests_per_minute": 90, "window": "sliding"}}}
    own = [SimulatedLimit("requests", 30, model="large"), SimulatedLimit("requests", 90, window="sliding", model="small")]
    arrivals = pressed(CallMix(CallClass("large", model="large"), CallClass("small", weight=3.0, model="small")), 2 * 120, load)

    def run(seed: int) -> dict[str, float]:
        report = simulate(configured("ab", limits), backends("ab", own), arrivals, seed=seed, for_seconds=seconds)
        return figures(report, MINUTE)

    return Scenario("limits by model", run, (*NONE_REFUSED, *MOST_USED))


def shared(*, seconds: float = 600.0) -> Scenario:
    """Two accounts share an organisation's limit: together they use it and never more. No backend counts for both, so none refuses:
    the records of both are judged together."""
    both = SimulatedLimit("requests", REQUESTS, window="sliding")
    config = configured("ab", {"shared": ["organisation"]})
    config["shared_limits"] = {"organisation": {"requests_per_minute": REQUESTS, "window": "sliding"}}
    arrivals = Arrivals(poisson(3 * REQUESTS), CallClass("any"))

    def run(seed: int) -> dict[str, float]:
        report = simulate(config, backends("ab", [], headers="absent"), arrivals, seed=seed, for_seconds=seconds)
        admitted = [(seen.at, 1.0) for seen in report.attempts() if seen.admitted]
        together = sum(at >= MINUTE for at, _ in admitted) / (REQUESTS * (seconds - MINUTE) / MINUTE)
        return {**figures(report, MINUTE), "used": together, "overruns": len(find_overruns(both, admitted))}

    return Scenario("a limit shared by two accounts", run, (*NEVER_OVER, *MOST_USED))


def calendar(zone: Literal["UTC", "America/Los_Angeles"] = "UTC", *, days: int = 3, per_day: int = 100) -> Scenario:
    """So many requests a civil day of the provider's zone, across its midnights: each day is used up, none is exceeded."""
    rate = {"amount": per_day, "per": "day", "window": "calendar", "zone": zone}
    providers = backends("ab", [SimulatedLimit("requests", per_day, DAY, "fixed")])
    arrivals = Arrivals(poisson(3 * 2 * per_day / (DAY / MINUTE)), CallClass("any"))
    epoch = MIDNIGHT if zone == "UTC" else MIDNIGHT + UTC_TO_LOS_ANGELES

    def run(seed: int) -> dict[str, float]:
        config = configured("ab", {"requests": rate})
        report = simulate(config, providers, arrivals, seed=seed, for_seconds=days * DAY, epoch=epoch)
        return figures(report, 0.0)

    return Scenario(f"days of {zone}", run, (*NONE_REFUSED, Goal("used", 0.97, least=True)))
