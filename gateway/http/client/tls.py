"""TLS contexts: 1.2 or newer, verification and host names always checked, HTTP/1.1 by ALPN."""

import ssl
from pathlib import Path

from gateway.core.endpoint import TlsFiles
from gateway.core.errors import FailureKind, UpstreamFailure


class TlsContexts:
    """One context for each `TlsFiles`; made again when a file has changed (a renewed certificate)."""

    def __init__(self) -> None:
        self._contexts: dict[TlsFiles, tuple[tuple[int, ...], ssl.SSLContext]] = {}

    def context(self, files: TlsFiles) -> ssl.SSLContext:
        """Raises UpstreamFailure(CONNECT) when a file cannot be used."""
        try:
            paths = [path for path in (files.ca_file, files.cert_file, files.key_file) if path]
            versions = tuple(Path(path).stat().st_mtime_ns for path in paths)
            known = self._contexts.get(files)
            if known is not None and known[0] == versions:
                return known[1]
            context = _make(files)
        except (OSError, ssl.SSLError) as error:
            raise UpstreamFailure(FailureKind.CONNECT, f"TLS files cannot be used: {error}") from error
        self._contexts[files] = (versions, context)
        return context


def _make(files: TlsFiles) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=files.ca_file)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    if files.cert_file is not None:
        context.load_cert_chain(files.cert_file, files.key_file)
    return context
