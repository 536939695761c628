"""Pydantic AI: text, a stream, a tool, and an answer of a type."""

import asyncio
import json

from pydantic import BaseModel
from pydantic_ai import Agent


class Book(BaseModel):
    title: str
    pages: int


async def main() -> int:
    agent = Agent("openai-chat:gpt-4o")
    answer = await agent.run("Tell me about ships.")
    assert answer.output
    assert answer.usage.output_tokens > 0
    async with agent.run_stream("Tell me about ships.") as stream:
        assert [part async for part in stream.stream_text()][-1] == answer.output
    book = await Agent("openai-chat:gpt-4o", output_type=Book).run("Describe a book.")
    assert isinstance(book.output, Book)
    auto = await Agent("openai-chat:auto", instructions="Be brief.").run("Tell me about ships.")
    assert auto.output
    return 4


print(json.dumps({"answers": asyncio.run(main())}))
