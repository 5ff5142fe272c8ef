"""How a server is reached: its address, the token, and where a token may be sent; as the `senmon` command does."""

import ipaddress
import os
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from senmon.errors import ConfigurationError

DEFAULT_URL = "http://127.0.0.1:8080"
FALSE_WORDS = ("", "0", "n", "no", "f", "false", "off")


@dataclass(frozen=True)
class Reach:
    """A server's address and the token for it, both checked. The token is not shown where this is printed."""

    base: str
    token: str | None = field(repr=False)
    ca_file: str | None = None

    @property
    def encrypted(self) -> bool:
        """Whether it is reached by https."""
        return self.base.startswith("https://")


def find(
    url: str | None, token: str | None, ca_file: str | os.PathLike[str] | None, insecure_http: bool | None
) -> Reach:
    """What was given, else what the environment says, else the default.

    Raises `ConfigurationError` for an address that is none, a token file that cannot be read, and a token that would go
    over plain http to another machine.
    """
    name, base = ("url", url) if url is not None else ("SENMON_SERVER", os.environ.get("SENMON_SERVER") or DEFAULT_URL)
    try:
        parsed = httpx.URL(base)
    except httpx.InvalidURL as error:
        raise ConfigurationError(f"{name}: found {base!r}: {error}") from error
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise ConfigurationError(f"{name}: found {base!r}, expected an address such as {DEFAULT_URL}")
    if parsed.query or parsed.fragment or parsed.userinfo:
        # The address itself may hold a secret: it is not repeated.
        raise ConfigurationError(
            f"{name}: found an address with a user, a query or a fragment, expected one such as {DEFAULT_URL}"
        )
    token = given_token(token)
    if insecure_http is None:
        insecure_http = os.environ.get("SENMON_INSECURE_HTTP", "").strip().lower() not in FALSE_WORDS
    if token is not None and not insecure_http and not is_private(parsed.scheme, parsed.host):
        raise ConfigurationError(
            f"{name}: found {base!r}: over plain http to another machine, anybody on the way can read the token. "
            "Use https, or insecure_http=True (SENMON_INSECURE_HTTP=1) where the network itself is trusted"
        )
    ca_file = os.fspath(ca_file) if ca_file is not None else os.environ.get("SENMON_CA_FILE") or None
    return Reach(base.rstrip("/"), token, ca_file)


def is_private(scheme: str, host: str) -> bool:
    """Whether what is sent stays unread on the way: it is encrypted, or never leaves the machine."""
    if scheme == "https" or host.lower() == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return bool((mapped or address).is_loopback)


def given_token(token: str | None) -> str | None:
    """The token that was given, that of SENMON_TOKEN, or the one that `senmon login` keeps."""
    found = token if token is not None else os.environ.get("SENMON_TOKEN", "")
    if not found.strip() and token is None:
        path = kept_token_file()
        if path is None or not path.exists():
            return None
        try:
            found = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigurationError(f"read the token from {path}: {error}") from error
    found = found.strip()
    if not (found.isascii() and found.isprintable()) or " " in found:
        raise ConfigurationError("token: found characters that no token has, expected printable ASCII without blanks")
    return found or None


def kept_token_file() -> Path | None:
    """Where `senmon login` keeps a token."""
    folder, home = os.environ.get("XDG_CONFIG_HOME"), os.environ.get("HOME")
    if folder:
        return Path(folder) / "senmon" / "token"
    return Path(home) / ".config" / "senmon" / "token" if home else None
