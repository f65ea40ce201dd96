"""Turns errors of librdkafka and brokers into the layer's errors, a sentence each."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from channels.exceptions import MessageTooLarge
from confluent_kafka import KafkaError, KafkaException
from django.core.exceptions import ImproperlyConfigured

from ..exceptions import BrokerUnavailable, KafkaLayerError, ProduceFailed, TopicError
from ..wire.topics import StreamTopic

__all__ = [
    "UNANSWERED",
    "UNKNOWN_TOPIC",
    "are_all_fenced",
    "configuration_error",
    "is_refusal",
    "kafka_error",
    "no_topic",
    "produce_error",
    "refused",
    "token_hint",
    "topic_error",
    "unavailable",
    "with_hint",
]

UNANSWERED = frozenset({KafkaError._TRANSPORT, KafkaError._TIMED_OUT})
"""No broker answered a request in time."""

UNKNOWN_TOPIC = frozenset(
    {
        KafkaError.UNKNOWN_TOPIC_OR_PART,
        KafkaError.UNKNOWN_TOPIC_ID,
        KafkaError._UNKNOWN_TOPIC,
        KafkaError._UNKNOWN_PARTITION,
    }
)
"""A topic or partition is gone: it was deleted, or the brokers were replaced."""

_HINTS = {
    # Of a config that the brokers know. A name or a value that they do not know is the settings'.
    KafkaError.POLICY_VIOLATION: "a config that is None in default_topic_config is left to the "
    "brokers",
    KafkaError.TOPIC_AUTHORIZATION_FAILED: "this client has no right to do that; grant it an ACL",
    KafkaError.CLUSTER_AUTHORIZATION_FAILED: "this client has no right to do that; grant it an ACL",
    KafkaError.GROUP_AUTHORIZATION_FAILED: "this client has no right to use the consumer group",
    KafkaError.INVALID_REPLICATION_FACTOR: "the cluster has fewer brokers than the "
    "replication_factor asks for; lower it, or leave it at -1",
    KafkaError.UNKNOWN_TOPIC_OR_PART: "it does not exist; run 'manage.py kafka_setup_topics'",
    KafkaError._UNKNOWN_TOPIC: "it does not exist; run 'manage.py kafka_setup_topics'",
    KafkaError._UNKNOWN_PARTITION: "it has no such partition; the server that was addressed is "
    "gone, or the topic was deleted or created again",
    KafkaError._MSG_TIMED_OUT: "no broker took it before it expired",
    KafkaError._PURGE_QUEUE: "the producer was closed, or failed for good, before a broker took it",
    KafkaError._PURGE_INFLIGHT: "the producer was closed, or failed for good, before a broker "
    "acknowledged it",
    KafkaError.UNSUPPORTED_VERSION: "the broker does not support this request",
    KafkaError._UNSUPPORTED_FEATURE: "the broker does not support this request",
    KafkaError.INVALID_TIMESTAMP: "the topic refuses this machine's clock; set "
    "message.timestamp.type=LogAppendTime with 'manage.py kafka_setup_topics'",
}

_NO_HINTS: Mapping[int, str] = MappingProxyType({})
_NO_SUCH_TOPIC = "it does not exist, and the layer creates no topic of a stream"
_STREAM_HINTS = {
    KafkaError.UNKNOWN_TOPIC_OR_PART: _NO_SUCH_TOPIC,
    KafkaError._UNKNOWN_TOPIC: _NO_SUCH_TOPIC,
    KafkaError._UNKNOWN_PARTITION: "it has no such partition",
    KafkaError.INVALID_TIMESTAMP: "the topic refuses this machine's clock",
    KafkaError.INVALID_RECORD: "a compacted topic takes no record without a key",
}
_MAY_NOT_WRITE = "this client has no right to do that; grant it an ACL for WRITE"
_PRODUCE_HINTS = {
    KafkaError.TOPIC_AUTHORIZATION_FAILED: _MAY_NOT_WRITE,
    # An idempotent producer needs it, and a client that may write to any topic has it.
    KafkaError.CLUSTER_AUTHORIZATION_FAILED: _MAY_NOT_WRITE,
}

# Properties that name a file. For an unreadable file OpenSSL says only "error:05880020".
_FILES = (
    "ssl.ca.location",
    "ssl.certificate.location",
    "ssl.key.location",
    "ssl.keystore.location",
    "ssl.crl.location",
)

# Bytes that are read of such a file: more than a chain of certificates and a key have.
_MOST_OF_A_FILE = 1_000_000

_MECHANISM_HINTS = {
    "GSSAPI": "Kerberos, which is also what librdkafka takes where sasl.mechanism is not set, is "
    "not in the wheels of confluent-kafka: set sasl.mechanism to what the brokers take, or install "
    "librdkafka with libsasl2 and then confluent-kafka by 'pip install --no-binary confluent-kafka "
    "confluent-kafka'",
    "AWS_MSK_IAM": "that name is one of Java's clients; librdkafka takes IAM as "
    "sasl.mechanism='OAUTHBEARER' with an oauth_cb that returns a token of the package "
    "aws-msk-iam-sasl-signer-python",
}

_UNREACHABLE = frozenset(
    {
        KafkaError._TIMED_OUT,
        KafkaError._TRANSPORT,
        KafkaError._ALL_BROKERS_DOWN,
        KafkaError._RESOLVE,
        KafkaError.REQUEST_TIMED_OUT,
    }
)

_REFUSED = frozenset(
    {KafkaError._AUTHENTICATION, KafkaError._SSL, KafkaError.SASL_AUTHENTICATION_FAILED}
)

# OpenSSL's words in a transport error: a broker that wants another certificate says so after the
# handshake, and librdkafka reports a broken connection. A connection that just ends is no refusal.
_OPENSSL = re.compile(r"SSL routines:(?!.*unexpected eof)")

# "(after 0ms in state CONNECT, 1 identical error(s) suppressed)"
_AFTERTHOUGHT = re.compile(r" \(after \d+ms in state .*\)$")


def is_refusal(error: KafkaError) -> bool:
    """Tell whether a broker does not let this client in, or this client does not trust it."""
    broken = error.code() == KafkaError._TRANSPORT
    return error.code() in _REFUSED or (broken and _OPENSSL.search(error.str()) is not None)


def refused(servers: str, error: KafkaError, what: str = "") -> BrokerUnavailable:
    """Return the error for brokers that do not let this client in.

    Args:
        servers: The bootstrap servers.
        error: An error for which ``is_refusal`` is true.
        what: The operation, if known.
    """
    said = _AFTERTHOUGHT.sub("", error.str())
    detail = f"{what}: {said}" if what else said
    if "OAUTHBEARER token" in said:
        return BrokerUnavailable(
            f"There is no OAUTHBEARER token for the Kafka brokers {servers} ({detail}); look at "
            "what client_config asks for it, by oauth_cb or sasl.oauthbearer.token.endpoint.url."
        )
    return BrokerUnavailable(
        f"The Kafka brokers {servers} do not let this client in ({detail}); "
        "correct the credentials or certificates in client_config."
    )


def are_all_fenced(error: KafkaError) -> bool:
    """Tell whether no broker takes partitions yet, as in the seconds after all have started.

    Kafka has no code of its own for it (KIP-631).
    """
    return error.code() == KafkaError.INVALID_REPLICATION_FACTOR and "fenced" in error.str()


def topic_error(what: str, error: KafkaError, servers: str) -> KafkaLayerError:
    """Return the error for a request about a topic that failed.

    Args:
        what: The operation and the topic, for instance ``create channels-ack``.
        error: The error of the client or the broker.
        servers: The bootstrap servers.
    """
    if is_refusal(error):
        return refused(servers, error, what)
    if error.code() in _UNREACHABLE or are_all_fenced(error):
        return unavailable(servers, f"{what}: {_AFTERTHOUGHT.sub('', error.str())}")
    return TopicError(f"Cannot {what}: {_sentence(error)}.")


def no_topic(topic: StreamTopic, servers: str) -> TopicError:
    """Return the error for a stream without a topic.

    Args:
        topic: The topic that does not exist.
        servers: The bootstrap servers of the stream.
    """
    return TopicError(
        f"Stream {topic.stream!r} has no topic: {topic.name} does not exist on {servers} (or this "
        f'client may not see it). Create it, or correct "topic" in streams[{topic.stream!r}]; the '
        "layer creates no topic of a stream."
    )


def unavailable(servers: str, detail: str, hint: str = "") -> BrokerUnavailable:
    """Return the error for brokers that do not answer.

    Args:
        servers: The bootstrap servers.
        detail: The operation that failed.
        hint: What else may be the cause, as a sentence; empty if nothing is known.
    """
    said = (
        f"No Kafka broker of {servers} answered ({detail}); start it, or correct bootstrap_servers."
    )
    return BrokerUnavailable(f"{said} {hint}" if hint else said)


def token_hint(properties: Mapping[str, object]) -> str:
    """Return the hint for clients that ask no broker before they have a token; "" for others."""
    mechanism = properties.get("sasl.mechanism", properties.get("sasl.mechanisms"))
    if mechanism != "OAUTHBEARER":
        return ""
    return (
        "A client asks no broker before it has an OAUTHBEARER token: look at oauth_cb or "
        "sasl.oauthbearer.token.endpoint.url in client_config."
    )


# The topic config that a record exceeds.
_TOO_LARGE = {
    KafkaError.MSG_SIZE_TOO_LARGE: "max.message.bytes",
    KafkaError.RECORD_LIST_TOO_LARGE: "segment.bytes (the broker's log.segment.bytes)",
}


def configuration_error(
    reason: str, properties: Mapping[str, object], setting: str
) -> ImproperlyConfigured:
    """Return the error for properties that librdkafka refuses.

    Args:
        reason: librdkafka's message.
        properties: The properties. The error shows only values that are paths of files.
        setting: The CONFIG keyword that adds to client_config for this client.
    """
    return ImproperlyConfigured(
        f"The Kafka client refuses its configuration: {with_hint(reason, properties)}. "
        f"Correct client_config or {setting}."
    )


def with_hint(reason: str, properties: Mapping[str, object]) -> str:
    """Return librdkafka's reason for a refusal, with hints that it leaves out.

    Args:
        reason: librdkafka's message.
        properties: The properties. Hints show only values that are paths of files.
    """
    files = [name for name in _FILES if f"{name} failed" in reason]
    hints = [_file_hint(name, reason, properties) for name in files]
    if "SASL mechanism" in reason:
        hints += [hint for word, hint in _MECHANISM_HINTS.items() if word in reason]
        mechanism = str(properties.get("sasl.mechanism", properties.get("sasl.mechanisms", "")))
        if mechanism != mechanism.upper():
            hints.append(f"names of mechanisms are in capitals: {mechanism.upper()!r}")
    return f"{reason} ({'; '.join(hints)})" if hints else reason


def _file_hint(name: str, reason: str, properties: Mapping[str, object]) -> str:
    """Say what is wrong with a file for which OpenSSL gives only a number."""
    path = str(properties[name])
    try:
        with Path(path).open("rb") as file:
            content = file.read(_MOST_OF_A_FILE)
    except OSError as error:
        return f"{name} is {path!r}: {error.strerror}"
    if not content:
        wrong = "is empty"
    elif "key values mismatch" in reason:
        wrong = "is not the key of the certificate"
    elif name == "ssl.key.location" and b"ENCRYPTED" in content:
        password = "does not open it" if properties.get("ssl.key.password") else "is not set"
        wrong = f"is encrypted, and ssl.key.password {password}"
    else:
        wrong = "is no such file in PEM format"
    return f"{name} is {path!r}, which {wrong}"


def produce_error(
    topic: str,
    key: bytes | str | None,
    error: KafkaError,
    refusal: KafkaError | None = None,
    stream: str | None = None,
) -> Exception:
    """Return the error for a record that was not written.

    Args:
        topic: Kafka's name of the topic.
        key: The record's key.
        error: The error of the client or the broker.
        refusal: The last error of a broker that does not let this client in; None without one.
        stream: The stream of the settings that has the topic; None for a topic of the layer.
    """
    of_stream = "" if stream is None else f" of stream {stream!r}"
    where = f"a record for {topic}{of_stream}" + (f", key {key!r}" if key else "")
    if error.code() in _TOO_LARGE:
        mend = " with 'manage.py kafka_setup_topics'" if stream is None else ""
        too_large: Exception = MessageTooLarge(
            f"The broker refuses {where}: it is larger than the topic's "
            f"{_TOO_LARGE[error.code()]}; raise that{mend}, or send a reference."
        )
        return too_large
    hints = _PRODUCE_HINTS if stream is None else {**_PRODUCE_HINTS, **_STREAM_HINTS}
    said = _sentence(error, hints)
    if refusal is not None and error.code() == KafkaError._MSG_TIMED_OUT:
        said += f"; the brokers do not let this client in ({_AFTERTHOUGHT.sub('', refusal.str())})"
    return ProduceFailed(f"The broker did not take {where}: {said}.")


def _sentence(error: KafkaError, own: Mapping[int, str] = _NO_HINTS) -> str:
    hint = own.get(error.code()) or _HINTS.get(error.code())
    said = error.str().rstrip(".")
    return f"{said} ({hint})" if hint else said


def kafka_error(exception: KafkaException) -> KafkaError:
    """Return the error that an exception of confluent_kafka carries."""
    error = exception.args[0]
    return error if isinstance(error, KafkaError) else KafkaError(KafkaError._FAIL, str(error))
