"""LlamaIndex: chat, a stream, a structured answer, a model that it does not know, and embeddings."""

import json

from llama_index.core.llms import ChatMessage
from llama_index.embeddings.openai import OpenAIEmbedding
from llama_index.llms.openai import OpenAI
from llama_index.llms.openai_like import OpenAILike
from pydantic import BaseModel


class Book(BaseModel):
    """A book."""

    title: str
    pages: int


def main() -> int:
    asked = [ChatMessage(role="user", content="Tell me about ships.")]
    model = OpenAI(model="gpt-4o")
    answer = model.chat(asked)
    assert answer.message.content
    parts = [part.delta or "" for part in model.stream_chat(asked)]
    assert "".join(parts) == answer.message.content
    assert isinstance(model.as_structured_llm(Book).chat(asked).raw, Book)
    auto = OpenAILike(model="auto", is_chat_model=True)
    assert auto.complete("Tell me about ships.").text
    embedded = OpenAIEmbedding(model="text-embedding-3-small").get_text_embedding_batch(["one", "two"])
    assert [len(vector) for vector in embedded] == [1536, 1536]
    return 5


print(json.dumps({"answers": main()}))
