"""The official SDKs accept mock backends: answers, streams, usage and errors become their own objects."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import anthropic
import httpx2
import openai
import pytest

from balancer.testing.mock import MockSettings, StreamError, open_mock

# The libraries leave their own generators unfinished when a stream is left early, and trio warns of it.
pytestmark = pytest.mark.filterwarnings("ignore:Async generator:ResourceWarning")

MESSAGES = [{"role": "user", "content": "Hello there"}]


@asynccontextmanager
async def open_openai(**settings: object) -> AsyncGenerator[openai.AsyncOpenAI]:
    async with open_mock(MockSettings.parse(settings)) as backend, httpx2.AsyncClient(trust_env=False) as http:
        yield openai.AsyncOpenAI(base_url=backend.base_url, api_key="k", http_client=http, max_retries=0)


@asynccontextmanager
async def open_anthropic(**settings: object) -> AsyncGenerator[anthropic.AsyncAnthropic]:
    parsed = MockSettings.parse({"speaks": "anthropic", **settings})
    async with open_mock(parsed) as backend, httpx2.AsyncClient(trust_env=False) as http:
        base_url = backend.base_url.removesuffix("/v1")
        yield anthropic.AsyncAnthropic(base_url=base_url, api_key="k", http_client=http, max_retries=0)


async def test_openai_chat() -> None:
    """A completion and a stream of chunks, with usage."""
    async with open_openai(output_tokens=6) as sdk:
        answer = await sdk.chat.completions.create(model="m", messages=MESSAGES)
        assert answer.usage is not None
        assert answer.usage.completion_tokens == 6
        text, usage = "", None
        options = {"include_usage": True}
        stream = await sdk.chat.completions.create(model="m", messages=MESSAGES, stream=True, stream_options=options)
        async for chunk in stream:
            text += "".join(choice.delta.content or "" for choice in chunk.choices)
            usage = chunk.usage or usage
        assert text == answer.choices[0].message.content
        assert usage == answer.usage


async def test_openai_responses() -> None:
    """A response and its events, from `response.created` to `response.completed`."""
    async with open_openai(output_tokens=6) as sdk:
        answer = await sdk.responses.create(model="m", input="Hello there")
        assert answer.usage is not None
        assert (answer.status, answer.usage.output_tokens) == ("completed", 6)
        text = ""
        async with sdk.responses.stream(model="m", input="Hello there") as stream:
            async for event in stream:
                text += event.delta if event.type == "response.output_text.delta" else ""
            final = await stream.get_final_response()
        assert text == final.output_text == answer.output_text
        assert final.usage == answer.usage
        short = await sdk.responses.create(model="m", input="Hello", max_output_tokens=2)
        assert (short.status, short.incomplete_details.reason) == ("incomplete", "max_output_tokens")


async def test_openai_embeddings() -> None:
    """One vector for each text."""
    async with open_openai() as sdk:
        answer = await sdk.embeddings.create(model="m", input=["one text", "another"])
        assert [item.index for item in answer.data] == [0, 1]
        assert all(isinstance(item.embedding[0], float) for item in answer.data)


async def test_openai_errors() -> None:
    """Refusals and stream errors are the SDK's own exceptions."""
    async with open_openai(limits={"requests_per_minute": 1}) as sdk:
        await sdk.chat.completions.create(model="m", messages=MESSAGES)
        with pytest.raises(openai.RateLimitError) as caught:
            await sdk.chat.completions.create(model="m", messages=MESSAGES)
        assert caught.value.code == "rate_limit_exceeded"
    async with open_openai(faults=[{"script": [StreamError()]}]) as sdk:
        stream = await sdk.chat.completions.create(model="m", messages=MESSAGES, stream=True)
        with pytest.raises(openai.APIError, match="overloaded"):
            async for _ in stream:
                pass
    async with open_openai(keys=["another"]) as sdk:
        with pytest.raises(openai.AuthenticationError):
            await sdk.responses.create(model="m", input="Hello")


async def test_anthropic_messages() -> None:
    """A message and its stream, accumulated by the SDK to the same."""
    async with open_anthropic(output_tokens=6) as sdk:
        answer = await sdk.messages.create(model="m", messages=MESSAGES, max_tokens=100)
        assert (answer.usage.output_tokens, answer.stop_reason) == (6, "end_turn")
        async with sdk.messages.stream(model="m", messages=MESSAGES, max_tokens=100) as stream:
            text = "".join([piece async for piece in stream.text_stream])
            final = await stream.get_final_message()
        assert text == answer.content[0].text
        assert (final.usage.output_tokens, final.usage.input_tokens) == (6, answer.usage.input_tokens)
        short = await sdk.messages.create(model="m", messages=MESSAGES, max_tokens=2)
        assert (short.usage.output_tokens, short.stop_reason) == (2, "max_tokens")


async def test_anthropic_errors() -> None:
    """Refusals, overload and stream errors are the SDK's own exceptions."""
    faults = [{"script": ["ok", {"kind": "status", "status": 529}, {"kind": "stream_error", "status": 529}]}]
    async with open_anthropic(limits={"requests_per_minute": 3}, faults=faults) as sdk:
        await sdk.messages.create(model="m", messages=MESSAGES, max_tokens=9)
        with pytest.raises(anthropic.APIStatusError, match="overloaded_error"):
            await sdk.messages.create(model="m", messages=MESSAGES, max_tokens=9)
        with pytest.raises(anthropic.APIStatusError, match="overloaded_error"):
            async with sdk.messages.stream(model="m", messages=MESSAGES, max_tokens=9) as stream:
                await stream.get_final_message()
        with pytest.raises(anthropic.RateLimitError) as caught:
            await sdk.messages.create(model="m", messages=MESSAGES, max_tokens=9)
        assert caught.value.response.headers["retry-after"].isdigit()
