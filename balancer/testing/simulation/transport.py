"""A simulated backend behind HTTP: for `Account(transport=...)`, so that the seams and their estimates are simulated too."""

from __future__ import annotations

import attrs
import httpx
import msgspec

from balancer.core.call import Call, Usage
from balancer.testing.mock.dialects import Asked, BadRequest, dialect_of, read_request, whole_answer
from balancer.testing.mock.signals import error_body
from balancer.testing.simulation.backends import OK, SimulatedAttempt, SimulatedBackend

PRODUCED = 100
"""Tokens of an answer that its request does not bound to fewer, where the backend's `truth` does not say otherwise."""


class SimulatedTransport(httpx.AsyncBaseTransport):
    """One account's backend as a transport; its answers come whole.

    Args:
        backend: what counts and answers. Its `truth` is asked with the model and the demand that the body shows; without it a
            token is four characters of the prompt, and one word of the answer.
        account: the account's name, for the record.
    """

    def __init__(self, backend: SimulatedBackend, account: str) -> None:
        self._backend = backend
        self._account = account

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Count the request and answer it in its own dialect."""
        backend = self._backend
        try:
            asked = read_request(dialect_of(request.method, request.url.path), await request.aread(), PRODUCED)
        except BadRequest as error:
            body = error_body(backend.provider, 400, message=str(error))
            return httpx.Response(400, json=body)
        truth = Usage(asked.input_tokens, asked.produced)
        if backend.truth is not None:
            truth = backend.truth(Call(asked.model, asked.demand))

        answer = await backend.answer(SimulatedAttempt(-1, self._account, asked.model, "", asked.demand, truth))
        content = msgspec.json.encode(answer.body) if answer.status != OK else _whole(asked, truth, len(backend.record))
        return httpx.Response(answer.status, headers=[*answer.headers, (b"content-type", b"application/json")], content=content)


def _whole(asked: Asked, truth: Usage, number: int) -> bytes:
    return whole_answer(attrs.evolve(asked, input_tokens=truth.input_tokens, produced=truth.output_tokens), number)
