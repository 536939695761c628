"""LangChain: chat, streams, tools, structured output, and embeddings, which it sends as token ids."""

import json

from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from pydantic import BaseModel


class Book(BaseModel):
    """A book."""

    title: str
    pages: int


@tool
def get_weather(city: str) -> str:
    """Weather of a city."""
    return f"It rains in {city}."


def main() -> int:
    model = ChatOpenAI(model="gpt-4o")
    answer = model.invoke("Tell me about ships.")
    assert answer.content
    assert answer.usage_metadata["output_tokens"] > 0
    parts = list(model.stream("Tell me about ships."))
    assert "".join(part.content for part in parts) == answer.content
    # Off by itself where the address is not that of OpenAI.
    counted = list(model.stream("Tell me about ships.", stream_usage=True))
    used = [part.usage_metadata["output_tokens"] for part in counted if part.usage_metadata]
    assert sum(used) == answer.usage_metadata["output_tokens"]
    called = model.bind_tools([get_weather]).invoke("What is the weather in Kyoto?")
    assert called.tool_calls[0]["name"] == "get_weather"
    assert isinstance(model.with_structured_output(Book).invoke("Describe a book."), Book)
    embeddings = OpenAIEmbeddings(model="text-embedding-3-small")
    assert [len(vector) for vector in embeddings.embed_documents(["one", "two"])] == [1536, 1536]
    assert len(embeddings.embed_query("one")) == 1536
    return 7


print(json.dumps({"answers": main()}))
