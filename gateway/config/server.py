"""Schema of `server`: where the gateway listens, and what it bounds."""

import hashlib
import hmac
from decimal import Decimal
from typing import Final, Literal

from pydantic import Field

from gateway.config.kinds import (
    Count,
    FilePath,
    Flag,
    PortNumber,
    Probability,
    Seconds,
    Secret,
    Section,
    ValueCount,
)
from gateway.config.urls import Cidr, Host

# Without a secret of the operator there is nothing to derive from. Keys are 256 random bits, so a public
# pepper costs them nothing; it only fails to protect short secrets in a stolen database.
PUBLIC_PEPPER: Final = b"tollway: keys without a pepper of their own, version 1"


class DataListener(Section):
    host: Host = Field(default="127.0.0.1", description="address on which clients' requests arrive")
    port: PortNumber = Field(default=8080, description="port of `/v1/*`; 0 takes any free one")
    idle_seconds: Seconds = Field(
        default=620.0,
        description="how long a connection may lie idle before it is closed, seconds; longer than the idle "
        "time of a load balancer in front (60 to 600), which would else use one that was just closed",
    )
    shed_after_seconds: float = Field(
        default=0.1,
        ge=0.02,
        le=3600,
        description="how long requests may wait in a worker for their turn, seconds; while they would wait "
        "longer, new ones are refused at once with 503 `overloaded`",
    )

    trusted_proxies: tuple[Cidr, ...] = Field(
        default=(),
        description="networks of the proxies in front whose `x-forwarded-for` is believed: the rightmost "
        "address there that is not one of these is the client's, in the access log and for "
        "`server.refusals`; left out: whoever is connected is the client",
    )


class Refusals(Section):
    per_minute_by_address: Count = Field(
        default=60,
        description="requests a minute without a valid key or admin token that are answered at once, of one "
        "address (IPv6: one /64); then each answer waits for its turn, and what would wait for over 5 "
        "seconds is a 429; a request with a valid one never waits",
    )
    per_minute_by_key: Count = Field(
        default=300,
        description="requests a minute of one key, refused for its model, its privacy class or by a rule, "
        "that are answered at once; then as above; requests that are not refused never wait",
    )


class AdminListener(Section):
    host: Host = Field(default="127.0.0.1", description="address of the admin API and metrics")
    port: PortNumber = Field(default=8081, description="port of the admin API; 0 takes any free one")
    token: Secret | None = Field(
        default=None, description="bearer token of the admin API; left out: only /healthz and /readyz answer"
    )
    max_connections: Count | None = Field(
        default=None,
        description="most connections to this port at a time; left out: a sixteenth of the file descriptors "
        "that a process may have open, 256 at most",
    )


class Server(Section):
    data: DataListener = Field(default=DataListener(), description="the data plane")
    admin: AdminListener = Field(default=AdminListener(), description="the control plane")
    refusals: Refusals = Field(
        default=Refusals(), description="how often requests may be refused before their answers wait"
    )
    max_connections: Count | None = Field(
        default=None,
        description="most connections of clients to the data port at a time, for each worker; left out: half "
        "of the file descriptors that a process may have open, less 96 and those of the admin port",
    )
    max_body_mib: Count = Field(default=64, description="largest request body, MiB")
    max_body_mib_in_flight: Count = Field(
        default=512,
        description="most MiB of request bodies that a worker holds at once, as they came and decompressed; "
        "one of `max_body_mib` always may be",
    )
    max_body_mib_in_flight_per_key: Count = Field(
        default=256,
        description="of these, most MiB for the requests of one key",
    )
    max_values: ValueCount = Field(
        default=500_000,
        description="most JSON values in one request body: each item of a list and each member of an object "
        "is one; 20,000 at least",
    )
    max_event_mib: Count = Field(
        default=32, description="largest event of a deployment's stream, MiB; a larger one breaks the stream"
    )
    max_messages: Count = Field(default=2048, description="most messages in one chat request")
    proxy_from_env: Flag = Field(
        default=False,
        description="reach deployments through the forward proxies that `HTTPS_PROXY`, `HTTP_PROXY` and "
        "`NO_PROXY` name (or in lower case); never used for a zone with `cidrs`, loopback, or a "
        "deployment with `proxy` of its own",
    )
    upstream_client: Literal["lean", "aiohttp"] = Field(
        default="lean", description="no effect: there is one client; refused from 0.3 on"
    )
    drain_seconds: Seconds = Field(
        default=30.0, description="how long open streams may go on after SIGTERM, seconds"
    )
    journal_dir: FilePath | None = Field(
        default=None,
        description="folder of the journal that survives kill -9, and of rows that the database refused; "
        "left out: `<file>.journal` beside an SQLite ledger, else `tollway.journal`",
    )
    journal_sync: Literal["off", "batch"] = Field(
        default="off",
        description="`off`: the journal survives a crash of the gateway; `batch`: also a power cut, but for "
        "the last tenth of a second",
    )
    ledger_queue_rows: Count = Field(
        default=50_000,
        description="most rows of a worker that may wait to be committed before requests have to wait too; "
        "they wait in the journal, with about 1 KB each",
    )
    prices_refresh_seconds: Seconds = Field(
        default=10.0,
        description="between two looks for prices entered with `tollway prices`, seconds",
    )
    watch: Flag = Field(
        default=True, description="check this file each second, and reload it when it has changed"
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="least level logged"
    )
    access_log: Literal["off", "errors", "all"] = Field(
        default="errors",
        description="one line a request in the log: `errors` for those that did not succeed, `all` for those "
        "that did too",
    )
    access_log_sample: Probability = Field(
        default=Decimal(1),
        description="with `access_log: all`, share of the requests that succeeded which get a line; the "
        "others always do",
    )
    refusals_kept_days: Count = Field(
        default=7,
        description="how long `tollway requests show` finds a refused request, days; the 200,000 latest "
        "at most",
    )
    key_pepper: Secret | None = Field(
        default=None,
        description="secret that keys are hashed with; left out: derived from the admin token",
    )

    def pepper(self) -> bytes:
        """The HMAC key for key secrets: of `key_pepper`, else of the admin token, else a public constant."""
        if self.key_pepper is not None:
            return self.key_pepper.get_secret_value().encode()
        if self.admin.token is not None:
            token = self.admin.token.get_secret_value().encode()
            return hmac.digest(token, PUBLIC_PEPPER, hashlib.sha256)
        return PUBLIC_PEPPER
