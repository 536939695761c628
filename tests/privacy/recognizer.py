"""A recogniser of the tests' own: speaks the frames without the gateway's code, and misbehaves when told.

Names in capitals that begin with "Z" are persons. A text that begins with a word below does as it says.
"""

import json
import os
import re
import sys
import time
from typing import Any

NAME = re.compile(r"\bZ[a-z]+\b")


def send(value: Any) -> None:
    content = json.dumps(value).encode()
    write(len(content).to_bytes(4, "big") + content)


def write(content: bytes) -> None:
    sys.stdout.buffer.write(content)
    sys.stdout.buffer.flush()


def answer(ask: dict[str, Any]) -> None:
    text = ask["text"]
    match text.split(":")[0]:
        case "hang":
            time.sleep(3600)
        case "slow":
            time.sleep(0.2)
        case "crash":
            os._exit(7)
        case "garbage":
            write(b"\x00\x00\x00\x04nope")
        case "huge":
            write(b"\xff\xff\xff\xff")
        case "half":
            write(b"\x00\x00\x00\x10{")
            os._exit(0)
        case "other":
            send({"id": ask["id"] + 1000, "found": []})
        case "env":
            send({"id": ask["id"], "found": [name for name in os.environ if "SECRET" in name]})
            return
    send({"id": ask["id"], "found": ["PERSON"] if NAME.search(text) else []})


def main() -> None:
    if "never-ready" in sys.argv:
        time.sleep(3600)
    if "broken" in sys.argv:
        send({"error": "no model"})
        return
    send({"ready": True})
    while head := sys.stdin.buffer.read(4):
        answer(json.loads(sys.stdin.buffer.read(int.from_bytes(head, "big"))))


main()
