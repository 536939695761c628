"""Asking a running gateway to reload, through its admin port."""

from typing import Any

import httpx

from gateway.config.schema import Settings

RELOAD_SECONDS = 30.0
_EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  # addresses to listen on, not to ask


class ReloadFailed(Exception):
    """The gateway could not be asked, or refused. The message says why."""


def request_reload(settings: Settings) -> str:
    """What the gateway with `settings` answers, in words. Raises ReloadFailed."""
    admin = settings.server.admin
    if admin.token is None:
        raise ReloadFailed(
            "the admin port has no token (server.admin.token), so it answers nobody: use SIGHUP"
        )
    host = _EVERYWHERE.get(admin.host, admin.host)
    url = f"http://{f'[{host}]' if ':' in host else host}:{admin.port}/admin/v1/reload"
    headers = {"authorization": f"Bearer {admin.token.get_secret_value()}"}
    try:
        response = httpx.post(url, headers=headers, timeout=RELOAD_SECONDS, trust_env=False)
        answer = response.json()
    except (httpx.HTTPError, ValueError) as exc:
        raise ReloadFailed(f"no answer from {url} ({type(exc).__name__}): is the gateway running?") from exc
    if response.status_code != 200:
        raise ReloadFailed(_refusal({"problems": [], **answer}))
    return f"Version {answer['version']} is in force, where {answer['previous']} was."


def _refusal(answer: dict[str, Any]) -> str:
    said = (
        f"{item['file']}:{item['line']}: {item['path']}: {item['message']}" for item in answer["problems"]
    )
    return "\n".join((answer["error"]["message"], *said))
