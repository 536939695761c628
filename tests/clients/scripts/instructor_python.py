"""Instructor: answers of a type, whole and in parts, by its usual way of asking for them."""

import json

import instructor
from pydantic import BaseModel


class Book(BaseModel):
    """A book."""

    title: str
    pages: int


def main() -> int:
    asked = [{"role": "user", "content": "Describe a book."}]
    client = instructor.from_provider("openai/gpt-4o")
    assert isinstance(client.chat.completions.create(response_model=Book, messages=asked), Book)
    parts = list(client.chat.completions.create_partial(response_model=Book, messages=asked))
    assert parts[-1].title
    auto = instructor.from_provider("openai/auto")
    assert isinstance(auto.chat.completions.create(response_model=Book, messages=asked), Book)
    return 3


print(json.dumps({"answers": main()}))
