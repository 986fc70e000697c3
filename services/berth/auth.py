"""Who is calling, and what they may touch.

A caller shows a signed token (HS256 JSON Web Token) as `authorization: Bearer ...`, in gRPC metadata or in a
Kafka record's header. Claims: `sub`, `tenants` (list, "*" for all), `roles` ("admin", "agent"), `node`, `exp`.
Without a key (loopback only, see `ServiceSettings`) everybody is `TRUSTED`.
"""

import time
from collections.abc import Iterable
from contextvars import ContextVar
from dataclasses import dataclass, field

import jwt

from berth.errors import PermissionDenied, Unauthenticated

__all__ = ["TRUSTED", "Authenticator", "Principal", "current_principal", "set_principal"]


@dataclass(frozen=True, slots=True)
class Principal:
    subject: str
    tenants: frozenset[str] = frozenset()
    roles: frozenset[str] = frozenset()
    node: str = ""

    def require_tenant(self, tenant: str) -> None:
        """Raises PermissionDenied where `tenant` is not one of the caller's."""
        if "*" not in self.tenants and tenant not in self.tenants:
            allowed = ", ".join(sorted(self.tenants)) or "none"
            raise PermissionDenied(
                f"tenant: {tenant!r}: {self.subject!r} may act for: {allowed}; ask for a token of that tenant"
            )

    def may_see(self, tenant: str) -> bool:
        return "*" in self.tenants or tenant in self.tenants

    def require_role(self, role: str) -> None:
        if role not in self.roles and "admin" not in self.roles:
            raise PermissionDenied(f"{self.subject!r} lacks the role {role!r}: ask an operator for a token with it")

    def require_node(self, node: str) -> None:
        """A node's agent speaks for its own node; an admin for any."""
        if "admin" in self.roles:
            return
        if "agent" not in self.roles or self.node != node:
            raise PermissionDenied(
                f"node: {node!r}: {self.subject!r} may report {self.node or 'no node'!r} only; "
                "use the token that was issued for this node"
            )


TRUSTED = Principal("trusted", frozenset({"*"}), frozenset({"admin", "agent"}))

_current: ContextVar[Principal] = ContextVar("berth_principal", default=TRUSTED)


def current_principal() -> Principal:
    return _current.get()


def set_principal(principal: Principal) -> None:
    _current.set(principal)


@dataclass(frozen=True, slots=True)
class Authenticator:
    """Issues and checks tokens. With `key` None everybody is TRUSTED."""

    key: str | None = field(repr=False, default=None)

    def authenticate(self, authorization: str | None) -> Principal:
        """The caller behind an `authorization` value. Raises Unauthenticated."""
        if self.key is None:
            return TRUSTED
        scheme, _, token = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise Unauthenticated("authorization: missing: send 'Bearer <token>'; make one with `berth token`")
        try:
            claims = jwt.decode(token, self.key, algorithms=["HS256"], options={"require": ["exp", "sub"]})
        except jwt.PyJWTError as error:
            raise Unauthenticated(f"authorization: token refused ({error}): ask for a new one") from error
        return Principal(
            subject=str(claims["sub"]),
            tenants=frozenset(map(str, claims.get("tenants", ()))),
            roles=frozenset(map(str, claims.get("roles", ()))),
            node=str(claims.get("node", "")),
        )

    def issue(
        self,
        subject: str,
        *,
        tenants: Iterable[str] = (),
        roles: Iterable[str] = (),
        node: str = "",
        lifetime_seconds: float = 86400.0,
    ) -> str:
        if self.key is None:
            raise Unauthenticated("no key: set BERTH_AUTH_KEY")
        return jwt.encode(
            {
                "sub": subject,
                "tenants": sorted(tenants),
                "roles": sorted(roles),
                "node": node,
                "exp": int(time.time() + lifetime_seconds),
            },
            self.key,
            algorithm="HS256",
        )
