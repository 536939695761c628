"""Prompt caching: how many tokens at the start of a prompt were seen before."""

from array import array
from collections import OrderedDict


class PrefixCache:
    """Remembers prefixes in whole blocks, the least recently used forgotten first.

    OpenAI caches from 1024 tokens on in steps of 128; vLLM from one block of 16 on. Nothing expires by time.
    """

    def __init__(self, *, minimum_tokens: int, block_tokens: int, capacity_blocks: int = 65_536) -> None:
        self.block_tokens = block_tokens
        self._minimum = minimum_tokens
        self._capacity = capacity_blocks
        self._seen: OrderedDict[int, None] = OrderedDict()

    def visit(self, ids: "array[int]") -> int:
        """Tokens of the longest known prefix, in whole blocks; the whole prompt is known afterwards."""
        if len(ids) < self._minimum:
            return 0
        known, unbroken, chain = 0, True, 0
        for end in range(self.block_tokens, len(ids) + 1, self.block_tokens):
            chain = hash((chain, ids[end - self.block_tokens : end].tobytes()))
            unbroken = unbroken and chain in self._seen
            known = end if unbroken else known
            self._remember(chain)
        return known if known >= self._minimum else 0

    def _remember(self, chain: int) -> None:
        self._seen[chain] = None
        self._seen.move_to_end(chain)
        if len(self._seen) > self._capacity:
            self._seen.popitem(last=False)
