"""nginx twice: as the static upstream that costs nothing, and as the reverse proxy that is the limit."""

from __future__ import annotations

import shutil

from benchmarks import wire
from benchmarks.probes import free_ports
from benchmarks.processes import Child, Skipped
from benchmarks.subjects import HERE, Room, Running, configured, ready

READ_FIRST = """
            proxy_pass http://self/answer;
            proxy_http_version 1.1;
            proxy_pass_request_body off;
            proxy_set_header Content-Length "";
            proxy_set_header Connection "";
        """
HINT = "nginx is missing: apt-get install nginx wrk"


def nginx_binary() -> str:
    """Raises Skipped with how to install it. Debian keeps nginx in sbin, which is not on every PATH."""
    found = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
    if found is None:
        raise Skipped(HINT)
    return found


def _nginx(room: Room, name: str, template: str, core: int, words: dict[str, str]) -> Running:
    port = free_ports(1)[0]
    source = HERE / "nginx" / f"{template}.conf"
    folder, conf = configured(room, name, source, {"PORT": str(port), **words})
    command = [nginx_binary(), "-c", str(conf), "-e", str(folder / "error.log")]
    return Running(name, Child(command, core=core, log=folder / "output.log"), port, folder)


def start_static_upstream(room: Room, *, reads_bodies: bool = False) -> Running:
    """nginx answering every chat request with the same 700 bytes, on the load core.

    Without `reads_bodies` it answers at once, which confuses clients that are still writing megabytes.
    """
    answer = _quoted(wire.chat_answer())
    words = {
        "CHAT": READ_FIRST if reads_bodies else f"return 200 '{answer}';",
        "ANSWER": answer,
        "MODELS": _quoted(wire.models_answer()),
    }
    return ready(_nginx(room, "upstream", "upstream", room.cores.load, words))


def _quoted(text: bytes) -> str:
    """For an nginx string in single quotes; `$` would start a variable and cannot be escaped there."""
    quoted = text.decode().replace("\\", "\\\\").replace("'", "\\'")
    if "$" in quoted:
        raise ValueError("nginx has no escape for $ in a string")
    return quoted


def launch_nginx(room: Room, upstream_port: int) -> Running:
    """nginx as reverse proxy: the limit."""
    return _nginx(room, "nginx", "proxy", room.cores.subject, {"UPSTREAM_PORT": str(upstream_port)})
