"""How an address is written."""


def host_port(host: str, port: int) -> str:
    """`ip:port`, an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
