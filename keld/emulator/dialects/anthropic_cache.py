"""Anthropic cache: which part of a Messages body is read from the prompt cache, and which is written to it."""

from collections.abc import Iterator

from ..answer import size_of, tokens_of
from ..cache import Piece, PromptCache, Use
from ..dialect import Conditions
from .anthropic_body import MESSAGE_TOKENS, Block, CacheControl, MessagesBody

# https://platform.claude.com/docs/en/build-with-claude/prompt-caching, 2026; a shorter prefix is not kept, and nothing says so.  Else 1,024.
_LEAST_CACHED = {
    "opus-5": 512, "haiku-4-5": 4096, "opus-4-5": 4096, "opus-4-6": 4096, "opus-4-7": 2048, "3-5-haiku": 2048, "3-haiku": 2048,
}  # fmt: skip


def cached(asked: MessagesBody, cache: PromptCache, first: bytes, conditions: Conditions) -> Use:
    """What of a prompt comes from the cache, and goes there.

    Args:
        first: the part before the system prompt: tools and schema.
    """
    return cache.marked(asked.model, list(_pieces(asked, first)), _least_cached(asked.model), conditions)


def _least_cached(model: str) -> int:
    return next((tokens for name, tokens in _LEAST_CACHED.items() if name in model), 1024)


def _pieces(asked: MessagesBody, first: bytes) -> Iterator[Piece]:
    """The prompt in the order in which it is cached: tools and schema, the system prompt, the messages."""
    yield Piece(first, tokens_of(len(first)))
    yield from _parts(asked.system, 0, None)
    last = len(asked.messages) - 1
    for n, message in enumerate(asked.messages):
        yield from _parts(message.content, MESSAGE_TOKENS, asked.cache_control if n == last else None)


def _parts(content: str | list[Block] | None, more_tokens: int, behind: CacheControl | None) -> Iterator[Piece]:
    """Content block by block; their tokens add up to those of the whole."""
    blocks = content if isinstance(content, list) else [] if content is None else [Block(content)]
    size = tokens = 0
    for n, block in enumerate(blocks):
        size += size_of(block.text)
        control = block.cache_control or (behind if n == len(blocks) - 1 else None)
        yield Piece(
            block.text.encode("utf-8", "surrogatepass"),
            tokens_of(size) - tokens + (0 if n else more_tokens),
            None if control is None else control.ttl,
        )
        tokens = tokens_of(size)
