"""Who may read and who may act: hosts, tokens, sessions and their proofs. Pure; `guards` asks it for each request.

A session is a signed cookie, not a row: its key is made from the token that was given at the login, so a new token
ends all sessions, and a restart ends none.
"""

import hashlib
import hmac
import ipaddress
import secrets
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

SESSION_SECONDS: Final = 7 * 86_400
LONGEST_TIMESTAMP: Final = 12
LOOPBACK_NAMES: Final = frozenset({"localhost", "127.0.0.1", "::1"})


@dataclass(frozen=True)
class Caller:
    """What of a request decides who it is from. `peer` and `local` are addresses without ports."""

    peer: str
    host: str
    local: str = ""
    bearer: str = ""
    cookie: str = ""
    origin: str = ""
    site: str = ""

    @property
    def is_local(self) -> bool:
        """A program or a person on this machine: the connection and the name that was asked for are both loopback."""
        return is_loopback(self.peer) and host_name(self.host) in LOOPBACK_NAMES

    @property
    def from_elsewhere(self) -> bool:
        """Whether a page of another origin made the browser send this."""
        if self.site not in ("", "same-origin", "none"):
            return True
        return bool(self.origin) and urlsplit(self.origin).netloc.lower() != self.host.lower()


@dataclass(frozen=True)
class Access:
    """The rules of one installation. A token that is None was not configured."""

    hosts: frozenset[str]
    api_token: str | None = None
    read_token: str | None = None

    def serves_host(self, caller: Caller) -> bool:
        """Whether the Host header names us: a page that rebinds its own name to our address must not read us.

        The address that the connection itself goes to is no name that anybody could rebind.
        """
        name = host_name(caller.host)
        return name in self.hosts or (bool(caller.local) and name == caller.local.lower())

    def may_reach(self, caller: Caller) -> bool:
        """Whether anything but health and metrics exists for this caller."""
        return caller.is_local or self.read_token is not None

    def may_read(self, caller: Caller, *, now: float) -> bool:
        if not self.may_reach(caller):
            return False
        return caller.is_local or self._shows_a_token(caller) or self.session(caller.cookie, now=now) is not None

    def may_act(self, caller: Caller, *, now: float) -> bool:
        """Whether the caller has shown the API token, now or at a login. A session needs its CSRF proof as well."""
        if self.api_token is None or not self.may_reach(caller):
            return False
        return self.shows_api_token(caller) or self.session(caller.cookie, now=now) == "api"

    def shows_api_token(self, caller: Caller) -> bool:
        """Whether this very request carries the API token, which no page of another site could make a browser send."""
        return self.api_token is not None and _same(caller.bearer, self.api_token)

    def login(self, token: str, *, now: float) -> str | None:
        """The cookie for somebody who knows one of the tokens; None for anybody else."""
        kind = next((kind for kind, known in self._tokens() if _same(token, known)), None)
        if kind is None:
            return None
        facts = f"{kind}.{int(now + SESSION_SECONDS)}.{secrets.token_urlsafe(12)}"
        return f"{facts}.{self._sign(kind, facts)}"

    def session(self, cookie: str, *, now: float) -> str | None:
        """`api` or `read` for a valid cookie, else None."""
        facts, _, signature = cookie.rpartition(".")
        kind, expires, *_ = (*facts.split("."), "", "")
        # The signature is looked at last, so the digits are anybody's.
        dated = expires.isascii() and expires.isdigit() and len(expires) <= LONGEST_TIMESTAMP
        if kind not in dict(self._tokens()) or not dated or int(expires) < now:
            return None
        return kind if hmac.compare_digest(signature.encode(), self._sign(kind, facts).encode()) else None

    def csrf(self, cookie: str) -> str:
        """The proof that a form was made by one of our pages for this very session."""
        kind = cookie.partition(".")[0]
        return self._sign(kind, f"csrf {cookie}") if kind in dict(self._tokens()) else ""

    def proves(self, cookie: str, proof: str) -> bool:
        """Whether `proof` is the one that belongs to the session."""
        expected = self.csrf(cookie)
        return bool(expected) and hmac.compare_digest(expected.encode(), proof.encode())

    def _tokens(self) -> tuple[tuple[str, str], ...]:
        tokens = (("api", self.api_token), ("read", self.read_token))
        return tuple((kind, token) for kind, token in tokens if token is not None)

    def _shows_a_token(self, caller: Caller) -> bool:
        return any(_same(caller.bearer, token) for _, token in self._tokens())

    def _sign(self, kind: str, facts: str) -> str:
        token = dict(self._tokens())[kind]
        key = hashlib.sha256(b"appliance session\0" + token.encode()).digest()
        return hmac.new(key, facts.encode(), hashlib.sha256).hexdigest()


def host_name(header: str) -> str:
    """The host of a Host header without its port, in lower case: `[::1]:8080` is `::1`."""
    if header.startswith("["):
        return header[1:].partition("]")[0].lower()
    return header.partition(":")[0].lower()


def allowed_hosts(listen_host: str, configured: Collection[str]) -> frozenset[str]:
    """Loopback, the address that is listened on, and the configured names."""
    return frozenset({*LOOPBACK_NAMES, listen_host.lower(), *(name.lower() for name in configured)})


def is_loopback(address: str) -> bool:
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(parsed, "ipv4_mapped", None)
    return (mapped or parsed).is_loopback


def safe_next(path: str) -> str:
    """Where to go after a login: a page of ours, never another site."""
    plain = path.startswith("/") and not path.startswith(("//", "/\\")) and path.isprintable()
    return path if plain and not urlsplit(path).netloc else "/"


def _same(given: str, known: str) -> bool:
    return bool(given) and hmac.compare_digest(given.encode(), known.encode())
