"""Stand-ins for OpenAI and vLLM, for tests, the demo and benchmarks. Never part of the request path."""
