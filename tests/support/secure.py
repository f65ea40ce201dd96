"""A real broker that asks who is there: TLS, client certificates, passwords, and rights."""

from __future__ import annotations

import base64
import json
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from confluent_kafka import KafkaException
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialUpsertion,
)

from tests.support.certificates import Authority
from tests.support.kafka import STEADY, RealBroker
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Rule", "SecureBroker"]

Rule = tuple[str, str, str]
"""A right: the kind of resource (``topic``, ``group``, ``cluster``), its name, the operation.

A name that ends in ``*`` means all that begin with what stands before it.
"""

_TIMEOUT: Final = 30.0
_ITERATIONS: Final = 4096
_PLAIN_USER: Final = "plain"
_KNOWN: Final = 3
_KINDS: Final = {
    "topic": ResourceType.TOPIC,
    "group": ResourceType.GROUP,
    "cluster": ResourceType.BROKER,
}
_LISTENERS: Final = {
    "TLS": "SSL",
    "MTLS": "SSL",
    "LOGIN": "SASL_SSL",
    "PASSWORD": "SASL_PLAINTEXT",
}
_BY_PASSWORD: Final = ("SCRAM-SHA-256", "SCRAM-SHA-512")
_WITHOUT_TLS: Final = ("PLAIN", *_BY_PASSWORD)


class SecureBroker:
    """A broker that denies what no ACL allows; a context manager.

    It has a listener for each way in. Who comes by plain text, or by TLS without a certificate,
    is nobody in particular and may do everything.

    Args:
        folder: Where certificates are written.

    Attributes:
        authority: Signed the broker's certificate, and signs those of clients.
    """

    def __init__(self, folder: Path) -> None:
        self.authority = Authority(folder, "authority")
        self._password = secrets.token_urlsafe(12)
        self._known = {f"known-{n}": secrets.token_urlsafe(12) for n in range(_KNOWN)}
        known = " ".join(f'user_{name}="{word}"' for name, word in self._known.items())
        own = self.authority.issue("broker", "127.0.0.1")
        jaas = "org.apache.kafka.common.security"
        self._broker = RealBroker(
            {
                **STEADY,
                "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
                "allow.everyone.if.no.acl.found": "false",
                "super.users": "User:ANONYMOUS",
                "ssl.keystore.type": "PEM",
                "ssl.keystore.location": own.both,
                "ssl.truststore.type": "PEM",
                "ssl.truststore.location": self.authority.certificate,
                "listener.name.mtls.ssl.client.auth": "required",
                "listener.name.mtls.ssl.principal.mapping.rules": "RULE:^CN=(.*)$/$1/",
                "sasl.enabled.mechanisms": "PLAIN,SCRAM-SHA-256,SCRAM-SHA-512,OAUTHBEARER",
                "listener.name.login.plain.sasl.jaas.config": (
                    f'{jaas}.plain.PlainLoginModule required user_{_PLAIN_USER}="{self._password}";'
                ),
                # Kafka's handler for tests believes a token that nobody signed.
                "listener.name.login.oauthbearer.sasl.jaas.config": (
                    f"{jaas}.oauthbearer.OAuthBearerLoginModule required "
                    'unsecuredLoginStringClaim_sub="broker";'
                ),
                "listener.name.password.sasl.enabled.mechanisms": ",".join(_WITHOUT_TLS),
                "listener.name.password.plain.sasl.jaas.config": (
                    f"{jaas}.plain.PlainLoginModule required {known};"
                ),
                **{
                    f"listener.name.{listener}.{mechanism.lower()}.sasl.jaas.config": (
                        f"{jaas}.scram.ScramLoginModule required;"
                    )
                    for listener in ("login", "password")
                    for mechanism in _BY_PASSWORD
                },
            },
            listeners=_LISTENERS,
        )

    def __enter__(self) -> Self:
        self._broker.start()
        self.admin = AdminClient({"bootstrap.servers": self._broker.bootstrap_servers})
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    def stop(self) -> None:
        """End it for good."""
        # A client that stays looks for its broker to the end of the run, and logs each attempt.
        vars(self).pop("admin", None)
        self._broker.stop()

    @property
    def plain(self) -> dict[str, Any]:
        """CONFIG keywords without TLS and without a user."""
        return {"bootstrap_servers": self._broker.bootstrap_servers}

    def tls(self, **properties: Any) -> dict[str, Any]:
        """Return CONFIG keywords for TLS where the broker alone shows a certificate."""
        return self._config("TLS", {"security.protocol": "SSL", **properties})

    def mtls(self, user: str, password: str = "", **properties: Any) -> dict[str, Any]:
        """Return CONFIG keywords for a client that shows a certificate of its own."""
        files = self.authority.issue(user, password=password)
        own = {
            "ssl.certificate.location": str(files.certificate),
            "ssl.key.location": str(files.key),
            **({"ssl.key.password": password} if password else {}),
        }
        return self._config("MTLS", {"security.protocol": "SSL", **own, **properties})

    def nobody(self) -> dict[str, Any]:
        """Return CONFIG keywords that lack the certificate which the broker asks for."""
        return self._config("MTLS", {"security.protocol": "SSL"})

    def login(
        self, user: str, password: str, mechanism: str = "SCRAM-SHA-256", **properties: Any
    ) -> dict[str, Any]:
        """Return CONFIG keywords for a user with a password, over TLS."""
        own = {"sasl.mechanism": mechanism, "sasl.username": user, "sasl.password": password}
        return self._config("LOGIN", {"security.protocol": "SASL_SSL", **own, **properties})

    def password(
        self, user: str, password: str, mechanism: str = "SCRAM-SHA-256"
    ) -> dict[str, Any]:
        """Return CONFIG keywords for a user with a password, without TLS."""
        return {
            "bootstrap_servers": self._broker.address("PASSWORD"),
            "client_config": {
                "security.protocol": "SASL_PLAINTEXT",
                "sasl.mechanism": mechanism,
                "sasl.username": user,
                "sasl.password": password,
            },
        }

    def token(self, user: str, seconds: float = 600.0) -> tuple[str, float]:
        """Return what an ``oauth_cb`` returns: a token for a user, and until when it is good."""
        now = time.time()
        claims = {"sub": user, "iat": now, "exp": now + seconds}
        parts = [
            base64.urlsafe_b64encode(json.dumps(each).encode()).rstrip(b"=").decode()
            for each in ({"alg": "none"}, claims)
        ]
        return ".".join([*parts, ""]), now + seconds

    def by_token(self, oauth_cb: Callable[[str], tuple[str, float]]) -> dict[str, Any]:
        """Return CONFIG keywords for a user with tokens, over TLS."""
        own = {"sasl.mechanism": "OAUTHBEARER", "oauth_cb": oauth_cb}
        return self._config("LOGIN", {"security.protocol": "SASL_SSL", **own})

    def new_user(self, rules: Sequence[Rule] = (), mechanism: str | None = None) -> dict[str, Any]:
        """Make a user with some rights; returns the CONFIG keywords of its login.

        Args:
            rules: The rights.
            mechanism: That of a login by TLS. Where none is named, the login is by SCRAM without
                TLS: the handshakes of a layer take longer than all else that it does.
        """
        if mechanism == "PLAIN":
            user, password = _PLAIN_USER, self._password
        else:
            user, password = f"user-{secrets.token_hex(4)}", secrets.token_urlsafe(12)
            self.set_password(user, password, mechanism or _BY_PASSWORD[0])
        self.allow(user, rules)
        if mechanism is None:
            return self.password(user, password)
        return self.login(user, password, mechanism)

    def user(self, number: int, rules: Sequence[Rule]) -> dict[str, Any]:
        """Return the login of a user with these rights and no others, by PLAIN without TLS.

        Each connection of one with SCRAM takes longer than all else that a test does.

        Args:
            number: Which one of those that the broker knows from its start, from 0 on.
            rules: The rights.
        """
        name, password = list(self._known.items())[number]
        before = self.rules(name)
        self.forbid(name, *before.difference(rules))
        self.allow(name, list(set(rules) - before))
        return self.password(name, password, "PLAIN")

    def allow(self, user: str, rules: Sequence[Rule]) -> None:
        """Give a user rights; returns once the broker knows them."""
        wanted = [_binding(user, rule) for rule in rules]
        if not wanted:
            return
        for future in self.admin.create_acls(wanted).values():
            future.result(_TIMEOUT)
        wait_until(
            lambda: set(rules) <= self.rules(user), f"the broker to know the rights of {user}"
        )

    def rules(self, user: str) -> set[Rule]:
        """Return the rights of a user."""
        return set(map(_rule, self._acls(user)))

    def forbid(self, user: str, *rules: Rule) -> None:
        """Take rights away; returns once the broker knows it."""
        if not rules:
            return
        named = [_filter(_binding(user, rule)) for rule in rules]
        for future in self.admin.delete_acls(named).values():
            future.result(_TIMEOUT)
        wait_until(
            lambda: self.rules(user).isdisjoint(rules), f"the broker to forget rights of {user}"
        )

    def _acls(self, user: str) -> list[AclBinding]:
        mine = AclBindingFilter(
            ResourceType.ANY,
            None,
            ResourcePatternType.ANY,
            f"User:{user}",
            None,
            AclOperation.ANY,
            AclPermissionType.ANY,
        )
        found: list[AclBinding] = self.admin.describe_acls(mine).result(_TIMEOUT)
        return found

    def set_password(self, user: str, password: str, mechanism: str = "SCRAM-SHA-256") -> None:
        """Give a user another password."""
        kind = ScramMechanism[mechanism.replace("-", "_")]
        change = UserScramCredentialUpsertion(
            user, ScramCredentialInfo(kind, _ITERATIONS), password.encode()
        )
        self.admin.alter_user_scram_credentials([change])[user].result(_TIMEOUT)

        login = self.password(user, password, mechanism)
        properties = {
            "bootstrap.servers": login["bootstrap_servers"],
            **login["client_config"],
            "log_level": 0,
        }

        def let_in() -> bool:
            # A client of its own for each try: one that was refused waits before it comes again.
            with AdminClient(properties) as admin:
                try:
                    admin.list_topics(timeout=1.0)
                except KafkaException:
                    return False
            return True

        wait_until(let_in, f"the broker to know the password of {user}", 30)

    def _config(self, listener: str, properties: Mapping[str, Any]) -> dict[str, Any]:
        authority = str(self.authority.certificate)
        return {
            "bootstrap_servers": self._broker.address(listener),
            "client_config": {"ssl.ca.location": authority, **properties},
        }


def _binding(user: str, rule: Rule) -> AclBinding:
    kind, name, operation = rule
    prefixed = name.endswith("*")
    return AclBinding(
        _KINDS[kind],
        name.removesuffix("*"),
        ResourcePatternType.PREFIXED if prefixed else ResourcePatternType.LITERAL,
        f"User:{user}",
        "*",
        AclOperation[operation],
        AclPermissionType.ALLOW,
    )


def _filter(acl: AclBinding) -> AclBindingFilter:
    return AclBindingFilter(
        acl.restype,
        acl.name,
        acl.resource_pattern_type,
        acl.principal,
        acl.host,
        acl.operation,
        acl.permission_type,
    )


def _rule(acl: AclBinding) -> Rule:
    kind = next(name for name, each in _KINDS.items() if each == acl.restype)
    star = "*" if acl.resource_pattern_type == ResourcePatternType.PREFIXED else ""
    return kind, acl.name + star, acl.operation.name
