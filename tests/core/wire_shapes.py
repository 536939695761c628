"""Usage objects as providers and servers write them, each with the units that it means.

Written by hand from the providers' references (2026-11). Names say who writes it so.
"""

from typing import Any

import msgspec


class Shape(msgspec.Struct, frozen=True):
    """`usage` as it comes, and the `units` that are to be booked."""

    name: str
    usage: dict[str, Any]
    units: dict[str, int]


EXACT = [
    Shape(
        "vllm: plain",
        {"prompt_tokens": 12, "total_tokens": 42, "completion_tokens": 30, "prompt_tokens_details": None},
        {"input_text": 12, "output_text": 30},
    ),
    Shape(
        "openai chat: details of zeros",
        {
            "prompt_tokens": 19,
            "completion_tokens": 10,
            "total_tokens": 29,
            "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
            "completion_tokens_details": {
                "reasoning_tokens": 0,
                "audio_tokens": 0,
                "accepted_prediction_tokens": 0,
                "rejected_prediction_tokens": 0,
            },
        },
        {"input_text": 19, "output_text": 10},
    ),
    Shape(
        "openai chat: cache read and written, reasoning, predictions",
        {
            "prompt_tokens": 2006,
            "completion_tokens": 300,
            "total_tokens": 2306,
            "prompt_tokens_details": {"cached_tokens": 1024, "cache_write_tokens": 512, "audio_tokens": 0},
            "completion_tokens_details": {
                "reasoning_tokens": 192,
                "accepted_prediction_tokens": 40,
                "rejected_prediction_tokens": 8,
            },
        },
        {
            "input_text": 470,
            "cached_text": 1024,
            "cache_write": 512,
            "output_text": 60,
            "output_reasoning": 192,
            "output_accepted_prediction": 40,
            "output_rejected_prediction": 8,
        },
    ),
    Shape(
        "openai chat: audio in and out",
        {
            "prompt_tokens": 1000,
            "completion_tokens": 500,
            "total_tokens": 1500,
            "prompt_tokens_details": {"audio_tokens": 900, "text_tokens": 100, "cached_tokens": 0},
            "completion_tokens_details": {"audio_tokens": 400, "text_tokens": 100, "reasoning_tokens": 0},
        },
        {"input_text": 100, "input_audio": 900, "output_text": 100, "output_audio": 400},
    ),
    Shape(
        "openai realtime: cached tokens by modality",
        {
            "prompt_tokens": 1000,
            "completion_tokens": 10,
            "total_tokens": 1010,
            "prompt_tokens_details": {
                "audio_tokens": 600,
                "text_tokens": 400,
                "cached_tokens": 500,
                "cached_tokens_details": {"text_tokens": 100, "audio_tokens": 400},
            },
        },
        {"input_text": 300, "input_audio": 200, "cached_text": 100, "cached_audio": 400, "output_text": 10},
    ),
    Shape(
        "openai responses: names of its own",
        {
            "input_tokens": 328,
            "input_tokens_details": {"cached_tokens": 128},
            "output_tokens": 52,
            "output_tokens_details": {"reasoning_tokens": 20},
            "total_tokens": 380,
        },
        {"input_text": 200, "cached_text": 128, "output_text": 32, "output_reasoning": 20},
    ),
    Shape(
        "vllm: images in an object of their own",
        {
            "prompt_tokens": 900,
            "completion_tokens": 3,
            "total_tokens": 903,
            "prompt_tokens_details": {"cached_tokens": 16, "multimodal_tokens": {"image": 765}},
        },
        {"input_text": 119, "input_image": 765, "cached_text": 16, "output_text": 3},
    ),
    Shape(
        "anthropic: caches beside the input, writes by lifetime",
        {
            "input_tokens": 2095,
            "cache_creation_input_tokens": 2051,
            "cache_read_input_tokens": 2048,
            "cache_creation": {"ephemeral_5m_input_tokens": 51, "ephemeral_1h_input_tokens": 2000},
            "output_tokens": 503,
            "service_tier": "standard",
            "server_tool_use": {"web_search_requests": 2},
        },
        {
            "input_text": 2095,
            "cached_text": 2048,
            "cache_write_5m": 51,
            "cache_write_1h": 2000,
            "output_text": 503,
            "search_queries": 2,
        },
    ),
    Shape(
        "anthropic: writes without a lifetime",
        {
            "input_tokens": 5,
            "cache_creation_input_tokens": 100,
            "cache_read_input_tokens": 0,
            "output_tokens": 7,
        },
        {"input_text": 5, "cache_write": 100, "output_text": 7},
    ),
    Shape(
        "a proxy: anthropic's names inside openai's totals",
        {
            "prompt_tokens": 1100,
            "completion_tokens": 7,
            "total_tokens": 1107,
            "cache_read_input_tokens": 800,
            "cache_creation_input_tokens": 200,
        },
        {"input_text": 100, "cached_text": 800, "cache_write": 200, "output_text": 7},
    ),
    Shape(
        "xai: reasoning beside the completion, only the total knows",
        {
            "prompt_tokens": 400,
            "completion_tokens": 60,
            "total_tokens": 2460,
            "prompt_tokens_details": {
                "text_tokens": 400,
                "audio_tokens": 0,
                "image_tokens": 0,
                "cached_tokens": 6,
            },
            "completion_tokens_details": {"reasoning_tokens": 2000, "audio_tokens": 0},
            "num_sources_used": 0,
        },
        {"input_text": 394, "cached_text": 6, "output_text": 60, "output_reasoning": 2000},
    ),
    Shape(
        "xai: a little reasoning beside a long completion",
        {
            "prompt_tokens": 10,
            "completion_tokens": 60,
            "total_tokens": 90,
            "completion_tokens_details": {"reasoning_tokens": 20},
        },
        {"input_text": 10, "output_text": 60, "output_reasoning": 20},
    ),
    Shape(
        "a cache beside the prompt, only the total knows",
        {
            "prompt_tokens": 100,
            "completion_tokens": 10,
            "total_tokens": 160,
            "prompt_tokens_details": {"cached_tokens": 50},
        },
        {"input_text": 100, "cached_text": 50, "output_text": 10},
    ),
    Shape(
        "kimi: cached tokens at the top",
        {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120, "cached_tokens": 64},
        {"input_text": 36, "cached_text": 64, "output_text": 20},
    ),
    Shape(
        "deepseek: hits and misses",
        {
            "prompt_tokens": 100,
            "completion_tokens": 20,
            "total_tokens": 120,
            "prompt_tokens_details": {"cached_tokens": 64},
            "prompt_cache_hit_tokens": 64,
            "prompt_cache_miss_tokens": 36,
            "completion_tokens_details": {"reasoning_tokens": 15},
        },
        {"input_text": 36, "cached_text": 64, "output_text": 5, "output_reasoning": 15},
    ),
    Shape(
        "groq: times beside the counts",
        {
            "queue_time": 0.037,
            "prompt_tokens": 18,
            "prompt_time": 0.0006,
            "completion_tokens": 556,
            "completion_time": 0.46,
            "total_tokens": 574,
            "total_time": 0.46,
        },
        {"input_text": 18, "output_text": 556},
    ),
    Shape(
        "sglang: reasoning at the top, inside the completion",
        {"prompt_tokens": 10, "completion_tokens": 60, "total_tokens": 70, "reasoning_tokens": 20},
        {"input_text": 10, "output_text": 40, "output_reasoning": 20},
    ),
    Shape(
        "perplexity: reasoning, citations and searches beside everything",
        {
            "prompt_tokens": 33,
            "completion_tokens": 7163,
            "total_tokens": 7196,
            "citation_tokens": 20016,
            "num_search_queries": 18,
            "reasoning_tokens": 5000,
        },
        {
            "input_text": 33,
            "input_citation": 20016,
            "output_text": 7163,
            "output_reasoning": 5000,
            "search_queries": 18,
        },
    ),
    Shape(
        "openrouter: video, images written, money",
        {
            "prompt_tokens": 500,
            "completion_tokens": 1300,
            "total_tokens": 1800,
            "cost": 0.0012,
            "is_byok": False,
            "prompt_tokens_details": {
                "cached_tokens": 0,
                "cache_write_tokens": 0,
                "audio_tokens": 0,
                "video_tokens": 90,
            },
            "cost_details": {"upstream_inference_cost": None},
            "completion_tokens_details": {"reasoning_tokens": 0, "image_tokens": 1290},
        },
        {"input_text": 410, "input_video": 90, "output_text": 10, "output_image": 1290},
    ),
    Shape("openai: an embedding", {"prompt_tokens": 8, "total_tokens": 8}, {"input_text": 8}),
    Shape("voyage: an embedding with a total alone", {"total_tokens": 10}, {"input_text": 10}),
    Shape(
        "counts as floats",
        {"prompt_tokens": 12.0, "completion_tokens": 3.0, "total_tokens": 15.0},
        {"input_text": 12, "output_text": 3},
    ),
    Shape(
        "a modality that nobody knows yet",
        {
            "prompt_tokens": 50,
            "completion_tokens": 5,
            "total_tokens": 55,
            "prompt_tokens_details": {"hologram_tokens": 30},
        },
        {"input_text": 20, "input_hologram": 30, "output_text": 5},
    ),
    Shape(
        "a count at the top that nobody knows yet",
        {"prompt_tokens": 50, "completion_tokens": 5, "total_tokens": 55, "dream_tokens": 7},
        {"input_text": 50, "output_text": 5, "unknown_dream": 7},
    ),
]

# Counts that cannot all be true, with the dearer reading of them.
CONTRADICTORY = [
    Shape(
        "more reasoning than completion, and the total denies it",
        {
            "prompt_tokens": 400,
            "completion_tokens": 60,
            "total_tokens": 460,
            "completion_tokens_details": {"reasoning_tokens": 2000},
        },
        {"input_text": 400, "output_text": 60, "output_reasoning": 2000},
    ),
    Shape(
        "more reasoning than completion, and no total",
        {"prompt_tokens": 4, "completion_tokens": 6, "completion_tokens_details": {"reasoning_tokens": 20}},
        {"input_text": 4, "output_text": 6, "output_reasoning": 20},
    ),
    Shape(
        "a total that nothing explains",
        {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 500},
        {"input_text": 100, "output_text": 400},
    ),
    Shape(
        "a total below its parts",
        {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 50},
        {"input_text": 100, "output_text": 20},
    ),
    Shape(
        "more from the cache than was read",
        {
            "prompt_tokens": 10,
            "completion_tokens": 1,
            "total_tokens": 11,
            "prompt_tokens_details": {"cached_tokens": 99},
        },
        {"input_text": 10, "cached_text": 99, "output_text": 1},
    ),
    Shape(
        "modalities beyond the prompt",
        {
            "prompt_tokens": 10,
            "completion_tokens": 1,
            "total_tokens": 11,
            "prompt_tokens_details": {"image_tokens": 8, "audio_tokens": 8},
        },
        {"input_image": 8, "input_audio": 8, "output_text": 1},
    ),
    Shape(
        "hits and misses beyond the prompt",
        {
            "prompt_tokens": 100,
            "completion_tokens": 20,
            "total_tokens": 120,
            "prompt_cache_hit_tokens": 64,
            "prompt_cache_miss_tokens": 100,
        },
        {"input_text": 100, "cached_text": 64, "output_text": 20},
    ),
    Shape(
        "an answer in audio that is longer than the answer",
        {
            "prompt_tokens": 1,
            "completion_tokens": 10,
            "total_tokens": 11,
            "completion_tokens_details": {"audio_tokens": 30},
        },
        {"input_text": 1, "output_audio": 30},
    ),
]
