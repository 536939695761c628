"""One table of dialects: what servers of each provider read, by what name, and what never reaches them.

A deployment overrides its row by `deployments.*.dialect`, and learns from what its server refuses.
Names of APIs and providers are those of the file: `chat`, `vllm`.
"""

import enum
from collections.abc import Mapping
from typing import Final

import msgspec


class StreamOptions(enum.StrEnum):
    """`stream_options` of streams: with `include_usage`, or not sent at all, the client's own neither."""

    INJECT = "inject"
    OMIT = "omit"


class MetadataRule(enum.StrEnum):
    """When `metadata` leaves the gateway. It holds the tags that finance reads, so it mostly does not."""

    WITH_STORE = "with_store"
    ALWAYS = "always"
    NEVER = "never"


class DeveloperRole(enum.StrEnum):
    """What becomes of messages of the role `developer`."""

    KEEP = "keep"
    SYSTEM = "system"


class Steering(enum.StrEnum):
    """What becomes of fields that steer engines and routers."""

    DROP = "drop"
    REFUSE = "refuse"


class UnknownFields(enum.StrEnum):
    """What becomes of members that a server is not known to read. Detectors read them in any case."""

    PASS = "pass"  # noqa: S105  # no password
    DROP = "drop"
    REFUSE = "refuse"


class PromptCount(enum.StrEnum):
    """Who counts a prompt where it is near the context's end."""

    ESTIMATE = "estimate"  # nobody: by its bytes, as learned from usage
    O200K = "o200k"  # the gateway, with OpenAI's vocabulary
    SERVER = "server"  # the server's own `/tokenize`


# The situations in which a cap may have another name. PREDICTION is a chat with predicted output.
CHAT, PREDICTION, COMPLETIONS, EMBEDDINGS = "chat", "prediction", "completions", "embeddings"
CHATS: Final = (CHAT, PREDICTION)
GENERATING: Final = (*CHATS, COMPLETIONS)

# Stands for a message of that role, among the members of a body: no member of the API has the name.
DEVELOPER: Final = "developer"

# They choose another model or server, reorder an engine's queue, reach into its caches, bring a prompt that
# nobody here can read, or unfold one to more tokens than it has bytes. Policy and price would not know of it.
# fmt: off
STEERING: Final = frozenset({
    # vLLM and SGLang: queues, caches, disaggregated serving, adapters, embedded prompts, free arguments
    "bootstrap_host", "bootstrap_port", "bootstrap_room", "cache_salt", "custom_logit_processor",
    "custom_params", "data_parallel_rank", "disagg_prefill_dp_rank", "ec_transfer_params", "extra_key",
    "input_embeds", "kv_transfer_params", "logits_processors", "lora_path", "priority", "prompt_embeds",
    "request_id", "rid", "routed_dp_rank", "session_id", "session_params", "vllm_xargs",
    # vLLM: a template of the client's own, which may repeat the prompt, and how finely media are read
    "chat_template", "media_io_kwargs", "mm_processor_kwargs",
    # OpenRouter and other routers: another model, another provider, rewritten prompts, tools of their own
    "content_policy_fallbacks", "context_window_fallbacks", "fallbacks", "models", "plugins", "preset",
    "provider", "providerOptions", "provider_options", "route", "transforms",
    # LiteLLM: another address or account
    "api_base", "api_key", "api_version", "base_url", "custom_llm_provider", "extra_body", "extra_headers",
    "guardrails", "litellm_metadata", "litellm_session_id", "mock_response", "model_list", "user_config",
    # Azure: the service reads data of its own beside the prompt
    "dataSources", "data_sources",
})
# fmt: on

# All members that some dialect treats differently from others.
TREATED: Final = STEERING | {"metadata", "prediction", "reasoning_effort"}

# fmt: off
# Members of OpenAI's own requests for chats, completions and embeddings.
LISTED: Final = frozenset({
    "audio", "best_of", "dimensions", "echo", "encoding_format", "frequency_penalty", "function_call",
    "functions", "input", "logit_bias", "logprobs", "max_completion_tokens", "max_tokens", "messages",
    "metadata", "modalities", "model", "n", "parallel_tool_calls", "prediction", "presence_penalty", "prompt",
    "prompt_cache_key", "prompt_cache_retention", "reasoning_effort", "response_format", "safety_identifier",
    "seed", "service_tier", "stop", "store", "stream", "stream_options", "suffix", "temperature",
    "tool_choice", "tools", "top_logprobs", "top_p", "user", "verbosity", "web_search_options",
})
# What vLLM reads beside them.
_VLLM: Final = frozenset({
    "add_generation_prompt", "add_special_tokens", "allowed_token_ids", "bad_words", "chat_template_kwargs",
    "continue_final_message", "documents", "embed_dtype", "endianness", "guided_choice",
    "guided_decoding_backend", "guided_grammar", "guided_json", "guided_regex", "guided_whitespace_pattern",
    "ignore_eos", "include_reasoning", "include_stop_str_in_output", "length_penalty", "min_p", "min_tokens",
    "normalize", "prompt_logprobs", "repetition_penalty", "return_token_ids", "return_tokens_as_token_ids",
    "skip_special_tokens", "spaces_between_special_tokens", "stop_token_ids", "structural_tag",
    "structured_outputs", "top_k", "truncate_prompt_tokens", "use_beam_search",
})
# And what other servers of this API do: SGLang, llama.cpp, and hosted models of several vendors.
_OTHERS: Final = frozenset({
    "ebnf", "enable_search", "enable_thinking", "grammar", "json_schema", "no_stop_trim", "random_seed",
    "reasoning", "regex", "return_hidden_states", "safe_prompt", "search_options", "search_parameters",
    "separate_reasoning", "stream_reasoning", "thinking", "thinking_budget", "top_a", "typical_p",
})
# fmt: on
EXTENSIONS: Final = _VLLM | _OTHERS

# Stands for members that are on no list, among the members of a body: names that a client makes up are kept
# nowhere.
UNKNOWN: Final = "unknown_fields"
# What may be left out of a request, by the names that are told.
HELD_BACK: Final = STEERING | EXTENSIONS | {UNKNOWN}

# Efforts of reasoning, from none to most.
EFFORTS: Final = ("none", "minimal", "low", "medium", "high", "xhigh", "max")


class ServerDialect(msgspec.Struct, frozen=True, kw_only=True):
    """How one server is spoken to.

    `caps`: by situation, the names of the field for an output cap, the one to use first; none: no cap is
    honoured. `efforts`: the values of `reasoning_effort` that it takes; None: any. `allows`: fields of
    STEERING and EXTENSIONS that reach it in any case. `reads`: those of EXTENSIONS that it is known to read.
    `is_capped`: every generated answer can be capped; derived, never given.
    """

    caps: Mapping[str, tuple[str, ...]]
    stream_options: StreamOptions = StreamOptions.INJECT
    metadata: MetadataRule = MetadataRule.WITH_STORE
    developer: DeveloperRole = DeveloperRole.KEEP
    efforts: tuple[str, ...] | None = None
    steering: Steering = Steering.DROP
    allows: frozenset[str] = frozenset()
    reads: frozenset[str] = frozenset()
    unknown_fields: UnknownFields = UnknownFields.PASS
    counts: PromptCount = PromptCount.ESTIMATE
    is_capped: bool = True

    def __post_init__(self) -> None:
        msgspec.structs.force_setattr(self, "is_capped", all(self.caps[where] for where in GENERATING))

    def cap_field(self, api: str, members: frozenset[str]) -> str | None:
        """The field for the output cap of a request to `api` that has these `members`."""
        names = self.caps[api if not members else situation(api, members)]
        return names[0] if names else None

    def without(self, field: str, where: str) -> "ServerDialect":
        """This one for a server that has refused `field`, a cap or `stream_options`, in situation `where`."""
        if field == "stream_options":
            return msgspec.structs.replace(self, stream_options=StreamOptions.OMIT)
        left = tuple(name for name in self.caps[where] if name != field)
        return msgspec.structs.replace(self, caps={**self.caps, where: left})

    def learned(self, tried: "ServerDialect", where: str) -> "ServerDialect":
        """This one after a request went through as `tried` in situation `where`, which began as this one.

        A name that was refused goes behind the one that was not, for a server that changes. Only where every
        name was refused no cap is honoured.
        """
        honoured = tried.caps[where]
        refused = tuple(name for name in self.caps[where] if name not in honoured)
        caps = {**self.caps, where: honoured + refused if honoured else ()}
        omits = StreamOptions.OMIT in (self.stream_options, tried.stream_options)
        options = StreamOptions.OMIT if omits else StreamOptions.INJECT
        return msgspec.structs.replace(self, caps=caps, stream_options=options)


def situation(api: str, members: frozenset[str]) -> str:
    """Which of the situations of a cap a request to `api` with these `members` is."""
    return PREDICTION if api == CHAT and "prediction" in members else api


_NEW_FIRST = ("max_completion_tokens", "max_tokens")
_OLD_FIRST = ("max_tokens", "max_completion_tokens")
_LEGACY = ("max_tokens",)

# OpenAI refuses `max_completion_tokens` beside `prediction`, and `metadata` without `store`.
_OPENAI = ServerDialect(
    caps={CHAT: _NEW_FIRST, PREDICTION: _OLD_FIRST, COMPLETIONS: _LEGACY, EMBEDDINGS: ()},
    efforts=EFFORTS[:-1],
    counts=PromptCount.O200K,
)
TABLE: Final[Mapping[str, ServerDialect]] = {
    "openai": _OPENAI,
    "azure": _OPENAI,
    # Chat templates of open models know the role `system` alone.
    "vllm": ServerDialect(
        caps={CHAT: _NEW_FIRST, PREDICTION: _NEW_FIRST, COMPLETIONS: _LEGACY, EMBEDDINGS: ()},
        metadata=MetadataRule.NEVER,
        developer=DeveloperRole.SYSTEM,
        efforts=EFFORTS,
        reads=_VLLM,
        counts=PromptCount.SERVER,
    ),
    "openai-compatible": ServerDialect(
        caps={CHAT: _OLD_FIRST, PREDICTION: _OLD_FIRST, COMPLETIONS: _LEGACY, EMBEDDINGS: ()},
        developer=DeveloperRole.SYSTEM,
        reads=EXTENSIONS,
    ),
}

# What a provider's deployments can do, without saying so, where they have said the word before the colon.
IMPLIED: Final[Mapping[str, Mapping[str, str]]] = {
    # Functions are the older spelling of tools there, and models that hear also speak.
    "openai": {"tools": "functions", "audio": "audio_output"},
    "azure": {"tools": "functions", "audio": "audio_output"},
}
