"""Which path speaks which dialect, and the errors we write in each."""

from __future__ import annotations

import json

import pytest

from balancer.core.outcome import Faulted, Overloaded, RateLimited, TimedOut
from balancer.providers.dialect import PLAIN, dialect_of
from balancer.providers.provider import PROVIDERS, get_provider
from balancer.providers.values import Headers

PATHS = {
    "/chat/completions": "openai.chat",
    "/responses": "openai.responses",
    "/embeddings": "openai.embeddings",
    "/messages": "anthropic.messages",
}


@pytest.mark.parametrize(("path", "name"), PATHS.items())
def test_paths(path, name):
    """A dialect is a POST to exactly its path, spoken by the provider that it is named after."""
    assert dialect_of("POST", path).name == name
    assert dialect_of("GET", path) is None
    owner = name.partition(".")[0]
    speakers = {provider.name for provider in PROVIDERS.values() if name in provider.dialects}
    assert owner in speakers
    assert not speakers & ({"openai", "anthropic", "http"} - {owner})


@pytest.mark.parametrize("path", ["", "/", "/messages/count_tokens", "/messages/", "/v1/messages", "/responses/x", "/models"])
def test_other_paths_are_plain(path):
    """Anything else has no dialect."""
    assert dialect_of("POST", path) is None


KINDS = [
    ("rate_limited", 429, RateLimited),
    ("overloaded", 503, Overloaded),
    ("unavailable", 503, Faulted),
    ("timeout", 504, TimedOut),
]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(("kind", "status", "outcome"), KINDS)
def test_our_errors_read_back(path, kind, status, outcome):
    """An error of our own is in the provider's shape: its reader finds the class that was meant."""
    dialect = dialect_of("POST", path)
    body = dialect.error_body(status, kind, 'no "account" could')
    provider = get_provider("anthropic" if path == "/messages" else "openai")
    assert isinstance(provider.evidence(status, Headers([]), body, 0.0).outcome, outcome)
    assert json.loads(body)["error"]["message"] == 'no "account" could'
    assert dialect.error_type == b"application/json"


@pytest.mark.parametrize(("kind", "status", "outcome"), KINDS)
def test_plain_errors_are_problem_documents(kind, status, outcome):
    """Without a dialect an error is a problem document."""
    assert outcome is not None
    document = json.loads(PLAIN.error_body(status, kind, "why"))
    assert (document["type"], document["status"], document["detail"]) == ("about:blank", status, "why")
    assert PLAIN.error_type == b"application/problem+json"
