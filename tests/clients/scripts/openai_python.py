"""The official client for Python: answers, streams, tools, typed answers, embeddings, errors, Azure."""

import asyncio
import json

import openai
from openai import AsyncOpenAI, AzureOpenAI, OpenAI
from pydantic import BaseModel

ASKED = [{"role": "user", "content": "Tell me about ships."}]
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Weather of a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


class Book(BaseModel):
    title: str
    pages: int


def main() -> int:
    client = OpenAI()
    models = {model.id: model for model in client.models.list()}
    assert models["gpt-4o"].model_dump()["context_length"] == 128_000
    assert client.models.retrieve("gpt-4o") == models["gpt-4o"]

    whole = client.chat.completions.create(model="gpt-4o", messages=ASKED)
    assert whole.choices[0].message.content
    assert whole.usage
    chunks = list(client.chat.completions.create(model="gpt-4o", messages=ASKED, stream=True))
    assert (
        "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == whole.choices[0].message.content
    )
    with client.chat.completions.stream(
        model="auto", messages=ASKED, stream_options={"include_usage": True}
    ) as stream:
        assert stream.get_final_completion().usage
    asked = [{"role": "user", "content": "What is the weather in Kyoto?"}]
    [call] = (
        client.chat.completions.create(model="auto", messages=asked, tools=[WEATHER])
        .choices[0]
        .message.tool_calls
    )
    assert "city" in json.loads(call.function.arguments)
    book = client.chat.completions.parse(model="gpt-4o", messages=ASKED, response_format=Book)
    assert isinstance(book.choices[0].message.parsed, Book)

    embedded = client.embeddings.create(model="text-embedding-3-small", input=["one", "two"])
    assert [len(item.embedding) for item in embedded.data] == [1536, 1536]
    try:
        client.chat.completions.create(model="gpt-4", messages=ASKED)
    except openai.NotFoundError as error:
        assert error.code == "model_not_found"
        assert "gpt-4o" in error.message
    else:
        raise AssertionError("an unknown model was answered")

    azure = AzureOpenAI().chat.completions.create(model="gpt-4o", messages=ASKED)
    assert azure.choices[0].message.content
    asyncio.run(in_turn())
    return 9


async def in_turn() -> None:
    async with AsyncOpenAI() as client:
        answer = await client.chat.completions.create(model="auto", messages=ASKED)
        assert answer.choices[0].message.content
        stream = await client.chat.completions.create(model="auto", messages=ASKED, stream=True)
        assert [chunk async for chunk in stream][-1].choices[0].finish_reason == "stop"


print(json.dumps({"answers": main()}))
