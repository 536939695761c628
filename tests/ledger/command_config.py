"""The configuration of the commands' tests: one deployment, one feature, and the ledger under test."""

from pathlib import Path

CONFIG = """
ledger: "{url}"
org: {{timezone: Asia/Tokyo}}
zones: {{local: {{cidrs: [127.0.0.0/8]}}}}
deployments:
  llama-4-scout:
    provider: vllm
    model: scout
    zone: local
    context_tokens: 1000
    max_output_tokens: 100
    replicas: {{urls: ["http://127.0.0.1:1/v1"]}}
    price: {{input: 1, output: 1}}
models: {{scout: {{use: [llama-4-scout]}}}}
teams: {{research: {{}}}}
features: {{triage: {{team: research}}}}
keys: {{app: {{secret: key-of-the-app-0123456789, feature: triage}}}}
"""


def config_file(folder: Path, ledger_url: str) -> Path:
    """The file, written into `folder`."""
    path = folder / "tollway.yaml"
    path.write_text(CONFIG.format(url=ledger_url))
    return path
