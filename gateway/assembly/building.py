"""The parts of a gateway that a checked configuration asks for, each by itself."""

import itertools
import secrets
import socket
import time
from collections.abc import Callable
from typing import TypeAlias

import structlog

from gateway.config.build import Built
from gateway.config.deployments import parse_networks
from gateway.config.schema import Settings
from gateway.config.screening import image_rules
from gateway.config.server import Server
from gateway.core.balancing import Fleet
from gateway.core.catalog import Api
from gateway.core.endpoint import IpNetwork
from gateway.core.policy import Policy, tokenizer_of
from gateway.core.pricing import NO_VERSIONS, PriceBook
from gateway.core.route import Routes
from gateway.http.client.pool import HttpUpstream
from gateway.http.server.descriptors import connection_bounds, descriptor_limit
from gateway.http.server.listening import listen
from gateway.http.server.port_state import PortState
from gateway.ledger.audit.keys import UnusableKey, new_seed, seed_in, signer_from
from gateway.ledger.url import database_of
from gateway.metrics.names import LabelNames
from gateway.ports import EntityFinder, Upstream
from gateway.privacy.images import ImageFetcher
from gateway.privacy.vocabularies import Vocabularies
from gateway.proxy.auth import Authenticator
from gateway.proxy.classify import Classifier
from gateway.proxy.inlining import ImageInliner
from gateway.proxy.large_bodies.messages import ReadingRules
from gateway.proxy.pipeline import Rulebook
from gateway.proxy.refusal_limits import RefusalAllowances

_log = structlog.get_logger("tollway.app")

MIB = 1024 * 1024

Listeners: TypeAlias = tuple[socket.socket, socket.socket]  # of the data port and of the admin port


def request_ids() -> Callable[[], str]:
    """A source of request ids: unique across processes by a random part, within one by counting."""
    # The start time comes first: ids then grow with time, which keeps the ledger's index compact.
    prefix = f"req_{int(time.time()):08x}{secrets.token_hex(4)}"
    return map((prefix + "{:08x}").format, itertools.count(1)).__next__


def rulebook(
    built: Built,
    fleet: Fleet,
    entities: EntityFinder,
    images: ImageFetcher,
    prices: PriceBook = NO_VERSIONS,
) -> Rulebook:
    server = built.settings.server
    classifier = Classifier(built.policy, built.screenings, Vocabularies(), entities)
    rules = image_rules(built.settings)
    return Rulebook(
        routes=Routes(built.policy, fleet, prices, built.tenancy.time_zone),
        classifier=classifier,
        authenticator=Authenticator(built.tenancy),
        images=None if rules is None else ImageInliner(built.policy, rules, classifier, images),
        max_body_bytes=server.max_body_mib * MIB,
        max_messages=server.max_messages,
        reading=ReadingRules(
            screenings=built.screening_source.model_dump_json().encode(),
            tokenizers=_tokenizers(built.policy),
            max_messages=server.max_messages,
            max_values=server.max_values,
            image_hosts=None if rules is None else rules.hosts,
            max_images=0 if rules is None else rules.max_images,
        ),
    )


def _tokenizers(policy: Policy) -> dict[str, dict[Api, str]]:
    """Those that are known of each model, by endpoint."""
    found = {model: {api: tokenizer_of(policy, model, api) for api in Api} for model in policy.models}
    return {
        model: {api: name for api, name in of_model.items() if name is not None}
        for model, of_model in found.items()
    }


def body_bounds(server: Server) -> tuple[int, int]:
    """The bytes of bodies that may be held at once: by the process, and for one key. One body always may."""
    bounds = server.max_body_mib_in_flight, server.max_body_mib_in_flight_per_key
    most, of_key = (max(bound, server.max_body_mib) * MIB for bound in bounds)
    return most, of_key


def refusal_allowances(settings: Settings) -> RefusalAllowances:
    given = settings.server.refusals
    return RefusalAllowances(given.per_minute_by_address, given.per_minute_by_key)


def trusted_proxies(settings: Settings) -> tuple[IpNetwork, ...]:
    return parse_networks(settings.server.data.trusted_proxies) or ()


def names(built: Built) -> LabelNames:
    return LabelNames(
        models=frozenset(built.policy.models),
        deployments=frozenset(built.policy.deployments),
        features=frozenset(built.settings.features),
        teams=frozenset(built.settings.teams),
    )


def listeners(built: Built) -> Listeners:
    server = built.settings.server
    data = listen(server.data.host, server.data.port)
    try:
        return data, listen(server.admin.host, server.admin.port)
    except BaseException:
        data.close()
        raise


def port_states(settings: Settings) -> tuple[PortState, PortState]:
    """Of the data port and the admin port, within the descriptors that this process may have."""
    server, limit = settings.server, descriptor_limit()
    bounds = connection_bounds(limit, server.max_connections, server.admin.max_connections)
    if bounds.lowered:
        _log.warning(
            "server.max_connections_lowered",
            data=bounds.data,
            admin=bounds.admin,
            descriptors=limit,
            advice="raise the limit of open files (LimitNOFILE, ulimit -n), or lower max_connections",
        )
    return PortState("data", bounds.data), PortState("admin", bounds.admin)


def signing_seed(settings: Settings) -> str:
    """The key of the audit log, as hexadecimal digits. Raises UnusableKey when the configured one is none."""
    if settings.audit.signing_key is not None:
        seed = settings.audit.signing_key.get_secret_value()
        signer_from(seed)
        return seed
    path = database_of(settings.ledger_url).paths.key_file(settings.server.journal_dir)
    try:
        return seed_in(path)
    except UnusableKey as exc:
        # Nothing to keep it in, as in a container: entries are signed all the same, by a key nobody knows.
        _log.warning("audit.key_not_kept", problem=str(exc), advice="set audit.signing_key")
        return new_seed()


def upstream() -> Upstream:
    return HttpUpstream()
