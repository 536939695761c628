"""TLS is always verified: chain, name and time; private CAs and client certificates are files."""

import ssl
from pathlib import Path

import pytest
import trustme

from gateway.core.endpoint import TlsFiles
from gateway.core.errors import FailureKind
from tests.http.client.upstream_stage import Peer, Stage, answers_always, chunked, timeouts, with_length

OK = with_length(b"ok")


class Keys:
    """A private CA with files, and server contexts of its making."""

    def __init__(self, directory: Path) -> None:
        self.ca = trustme.CA()
        self.directory = directory
        self.ca_file = str(directory / "ca.pem")
        self.ca.cert_pem.write_to_path(self.ca_file)

    def server(self, *names: str, ca: trustme.CA | None = None) -> ssl.SSLContext:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.set_alpn_protocols(["h2", "http/1.1"])
        (ca or self.ca).issue_cert(*names).configure_cert(context)
        return context

    def client(self) -> TlsFiles:
        leaf = self.ca.issue_cert("gateway.test")
        cert_file, key_file = self.directory / "cert.pem", self.directory / "key.pem"
        leaf.cert_chain_pems[0].write_to_path(str(cert_file))
        leaf.private_key_pem.write_to_path(str(key_file))
        return TlsFiles(ca_file=self.ca_file, cert_file=str(cert_file), key_file=str(key_file))


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    return Keys(tmp_path)


async def _serve(stage: Stage, context: ssl.SSLContext) -> None:
    await stage.server.stop()
    await stage.server.start(context)
    stage.server.plays(answers_always(OK))


async def test_private_ca(stage: Stage, keys: Keys) -> None:
    seen = []

    async def script(peer: Peer) -> None:
        tls = peer.writer.get_extra_info("ssl_object")
        seen.append((tls.selected_alpn_protocol(), tls.version()))
        await answers_always(OK)(peer)

    await _serve(stage, keys.server("upstream.test"))
    stage.server.plays(script)
    endpoint = stage.endpoint(scheme="https", host="upstream.test", tls=TlsFiles(ca_file=keys.ca_file))
    for _ in range(3):
        assert await stage.ask(endpoint, body=b"x" * 200_000) == (200, b"ok")
    assert len(seen) == 1
    assert seen[0][0] in ("http/1.1", None)


async def test_streams(stage: Stage, keys: Keys) -> None:
    await _serve(stage, keys.server("upstream.test"))
    stage.server.plays(answers_always(chunked(*[b"x" * 1000] * 500)))
    endpoint = stage.endpoint(scheme="https", host="upstream.test", tls=TlsFiles(ca_file=keys.ca_file))
    assert await stage.ask(endpoint) == (200, b"x" * 500_000)


async def test_address_as_name(stage: Stage, keys: Keys) -> None:
    await _serve(stage, keys.server("127.0.0.1"))
    endpoint = stage.endpoint(scheme="https", tls=TlsFiles(ca_file=keys.ca_file))
    assert await stage.ask(endpoint) == (200, b"ok")


async def test_wrong_name(stage: Stage, keys: Keys) -> None:
    await _serve(stage, keys.server("another.test"))
    endpoint = stage.endpoint(scheme="https", host="upstream.test", tls=TlsFiles(ca_file=keys.ca_file))
    failure = await stage.fails(FailureKind.CONNECT, stage.send(endpoint))
    assert "certificate" in failure.detail
    assert "upstream.test" in failure.detail
    assert failure.never_sent


async def test_unknown_ca(stage: Stage, keys: Keys) -> None:
    await _serve(stage, keys.server("upstream.test", ca=trustme.CA()))
    for tls in (TlsFiles(), TlsFiles(ca_file=keys.ca_file)):
        endpoint = stage.endpoint(scheme="https", host="upstream.test", tls=tls)
        failure = await stage.fails(FailureKind.CONNECT, stage.send(endpoint))
        assert "certificate" in failure.detail


async def test_client_certificate(stage: Stage, keys: Keys) -> None:
    context = keys.server("upstream.test")
    context.verify_mode = ssl.CERT_REQUIRED
    context.maximum_version = ssl.TLSVersion.TLSv1_2  # 1.3 refuses after the handshake only
    keys.ca.configure_trust(context)
    await _serve(stage, context)
    endpoint = stage.endpoint(scheme="https", host="upstream.test", tls=keys.client())
    assert await stage.ask(endpoint) == (200, b"ok")
    without = stage.endpoint(scheme="https", host="upstream.test", tls=TlsFiles(ca_file=keys.ca_file))
    await stage.fails(FailureKind.CONNECT, stage.send(without))


async def test_old_tls_is_refused(stage: Stage, keys: Keys) -> None:
    context = keys.server("upstream.test")
    context.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning):
        context.minimum_version = ssl.TLSVersion.TLSv1
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    await _serve(stage, context)
    endpoint = stage.endpoint(scheme="https", host="upstream.test", tls=TlsFiles(ca_file=keys.ca_file))
    await stage.fails(FailureKind.CONNECT, stage.send(endpoint))


async def test_plain_server(stage: Stage, keys: Keys) -> None:
    async def script(peer: Peer) -> None:
        await peer.reader.read(1)
        await peer.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    stage.server.plays(script)
    endpoint = stage.endpoint(scheme="https", host="upstream.test", tls=TlsFiles(ca_file=keys.ca_file))
    await stage.fails(FailureKind.CONNECT, stage.send(endpoint))


async def test_server_that_hangs_up_on_the_handshake(stage: Stage, keys: Keys) -> None:
    async def script(peer: Peer) -> None:
        await peer.reader.read(1)
        peer.close()

    stage.server.plays(script)
    endpoint = stage.endpoint(scheme="https", host="upstream.test", tls=TlsFiles(ca_file=keys.ca_file))
    await stage.fails(FailureKind.CONNECT, stage.send(endpoint))


async def test_handshake_that_never_ends(stage: Stage, keys: Keys) -> None:

    endpoint = stage.endpoint(
        scheme="https",
        host="upstream.test",
        tls=TlsFiles(ca_file=keys.ca_file),
        timeouts=timeouts(connect=0.2),
    )
    await stage.fails(FailureKind.CONNECT_TIMEOUT, stage.send(endpoint))


@pytest.mark.parametrize("content", [None, "not a certificate"])
async def test_files_that_cannot_be_used(stage: Stage, tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "broken.pem"
    if content is not None:
        path.write_text(content)
    endpoint = stage.endpoint(scheme="https", tls=TlsFiles(ca_file=str(path)))
    await stage.fails(FailureKind.CONNECT, stage.send(endpoint))


async def test_renewed_files_are_read_again(stage: Stage, keys: Keys) -> None:
    other = trustme.CA()
    await _serve(stage, keys.server("upstream.test", ca=other))
    endpoint = stage.endpoint(scheme="https", host="upstream.test", tls=TlsFiles(ca_file=keys.ca_file))
    await stage.fails(FailureKind.CONNECT, stage.send(endpoint))
    other.cert_pem.write_to_path(keys.ca_file)
    assert await stage.ask(endpoint) == (200, b"ok")
