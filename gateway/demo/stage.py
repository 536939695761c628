"""Everything that runs in the demo: three simulators and a gateway before them, on loopback, in one loop."""

import secrets
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec

from gateway.app import Gateway
from gateway.config.build import Built, build
from gateway.config.load import load
from gateway.demo.failure import DemoFailed
from gateway.finance.price_catalogue import PriceCatalogue
from gateway.http.server.listening import PortTaken, listen
from gateway.ledger.errors import LedgerUnavailable
from gateway.private_files import write_private
from gateway.simulators.knobs import Knobs
from gateway.simulators.running import Simulator, openai_simulator, vllm_simulator

HOST = "127.0.0.1"
CONFIG = Path(__file__).parent / "tollway.yaml"
GPT_4O = "gpt-4o"
LLAMA_4 = "llama-4-scout"

KEY_VARIABLES = {
    "literature-triage": "TRIAGE_KEY",
    "chart-reading": "CHART_KEY",
    "contract-review": "CONTRACT_KEY",
    "support-agent": "SUPPORT_KEY",
}
# As fast as people are used to, and quick enough for a show.
_GPT_4O = Knobs(ttft_ms=90, ttft_jitter_ms=30, tokens_per_second=150, seed=1)
_LLAMA_4 = Knobs(
    ttft_ms=60, ttft_jitter_ms=20, tokens_per_second=150, prefill_tokens_per_second=100_000, seed=2
)


class Stage(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """What is running, and the secrets that were made up for it. `keys` is by feature.

    `config` is the configuration as it stays beside the ledger.
    """

    gateway: Gateway
    built: Built
    config: Path
    gpt_4o: Simulator
    llama_4: tuple[Simulator, Simulator]
    keys: Mapping[str, str]
    admin_token: str

    @property
    def ledger_url(self) -> str:
        return self.built.settings.ledger_url


def refuse_taken_ports(port: int, admin_port: int) -> None:
    """Raises PortTaken before anything has started. Port 0 is any free one."""
    if port and port == admin_port:
        raise PortTaken(f"--port and --admin-port are both {port}. Give each its own.")
    for number in (port, admin_port):
        listen(HOST, number).close()


@asynccontextmanager
async def open_stage(port: int, admin_port: int, folder: Path) -> AsyncIterator[Stage]:
    """Start everything, and stop it in the reverse order; ledger and configuration stay in `folder`."""
    async with (
        openai_simulator(_GPT_4O, host=HOST) as gpt_4o,
        vllm_simulator(_LLAMA_4, host=HOST) as first,
        vllm_simulator(_LLAMA_4, host=HOST) as second,
    ):
        keys = {feature: _secret() for feature in KEY_VARIABLES}
        admin_token = _secret()
        public = {
            "DEMO_PORT": str(port),
            "DEMO_ADMIN_PORT": str(admin_port),
            "DEMO_FOLDER": _absolute(folder),
            "GPT_4O_URL": gpt_4o.url,
            "LLAMA_4_URL_1": first.url,
            "LLAMA_4_URL_2": second.url,
        }
        secret = {
            "DEMO_ADMIN_TOKEN": admin_token,
            "OPENAI_API_KEY": _secret(),
            **{KEY_VARIABLES[feature]: secret for feature, secret in keys.items()},
        }
        built = _configuration({**public, **secret})
        config = _keep_config(folder, public)
        gateway = await _started(built)
        try:
            yield Stage(
                gateway=gateway,
                built=built,
                config=config,
                gpt_4o=gpt_4o,
                llama_4=(first, second),
                keys=keys,
                admin_token=admin_token,
            )
        finally:
            await gateway.stop()


def _absolute(folder: Path) -> str:
    """For a file that is read from anywhere."""
    return str(folder.resolve())


def _keep_config(folder: Path, public: Mapping[str, str]) -> Path:
    """The configuration beside its ledger, so that reports can be made later; secrets stay variables."""
    text = CONFIG.read_text()
    for name, value in public.items():
        text = text.replace(f"${{{name}}}", value)
    path = folder / CONFIG.name
    write_private(path, text.encode())
    return path


async def _started(built: Built) -> Gateway:
    gateway = Gateway(built)
    try:
        await gateway.start()
    except LedgerUnavailable as exc:
        raise DemoFailed(str(exc)) from exc
    return gateway


def _configuration(variables: Mapping[str, str]) -> Built:
    # Only these variables: nothing of the user's environment finds its way into the demo.
    loaded = load(CONFIG, variables)
    built, problems = build(loaded, PriceCatalogue())
    if built is None:
        raise DemoFailed(f"its own configuration is wrong: {problems[0]}")
    return built


def _secret() -> str:
    return f"tw-demo-{secrets.token_hex(16)}"
