"""What librdkafka says about settings, as a sentence that helps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer
from django.core.exceptions import ImproperlyConfigured

from kafka_layer.config.librdkafka import Properties
from kafka_layer.kafka.clients import new_client
from tests.support.certificates import Authority

FILES = ["ssl.ca.location", "ssl.certificate.location", "ssl.key.location", "ssl.crl.location"]


def refusal(**properties: Any) -> str:
    """Return the error for a client with these properties (``_`` for ``.`` in their names)."""
    named = {name.replace("_", "."): value for name, value in properties.items()}
    with pytest.raises(ImproperlyConfigured) as raised:
        new_client(Producer, Properties({"bootstrap.servers": "127.0.0.1:1", **named}), "setting")
    return str(raised.value)


@pytest.mark.parametrize("name", FILES)
class TestFiles:
    def test_one_that_is_missing_is_named(self, name: str) -> None:
        said = refusal(security_protocol="ssl", **{name: "/no/such/file.pem"})
        assert f"({name} is '/no/such/file.pem': No such file or directory)" in said
        assert "Correct client_config or setting." in said

    def test_one_that_is_empty_or_something_else_is_named(self, name: str, tmp_path: Path) -> None:
        path = tmp_path / "file.pem"
        path.write_text("")
        assert f"({name} is '{path}', which is empty)" in refusal(
            security_protocol="ssl", **{name: str(path)}
        )
        path.write_text("no certificate")
        assert f"({name} is '{path}', which is no such file in PEM format)" in refusal(
            security_protocol="ssl", **{name: str(path)}
        )


class TestKeys:
    """A key that OpenSSL can read, and does not take."""

    def refusal(self, key: Path, authority: Authority, **more: str) -> str:
        certificate = str(authority.issue("client").certificate)
        names = {"ssl_certificate_location": certificate, "ssl_key_location": str(key)}
        return refusal(security_protocol="ssl", **names, **more)

    @pytest.fixture
    def authority(self, tmp_path: Path) -> Authority:
        return Authority(tmp_path, "authority")

    def test_one_that_needs_a_password(self, authority: Authority) -> None:
        key = authority.issue("other", password="the right one").key
        said = self.refusal(key, authority)
        assert f"'{key}', which is encrypted, and ssl.key.password is not set)" in said
        said = self.refusal(key, authority, ssl_key_password="hunter2")
        assert f"'{key}', which is encrypted, and ssl.key.password does not open it)" in said
        assert "hunter2" not in said

    def test_one_of_another_certificate(self, authority: Authority) -> None:
        key = authority.issue("other").key
        assert f"'{key}', which is not the key of the certificate)" in self.refusal(key, authority)


def test_a_mechanism_in_small_letters_comes_with_a_hint() -> None:
    said = refusal(security_protocol="sasl_ssl", sasl_mechanism="scram-sha-256")
    assert "(names of mechanisms are in capitals: 'SCRAM-SHA-256')" in said


def test_kerberos_comes_with_a_hint() -> None:
    said = refusal(security_protocol="sasl_ssl", sasl_mechanism="GSSAPI")
    assert "not in the wheels of confluent-kafka" in said


def test_a_mechanism_that_is_not_set_comes_with_a_hint() -> None:
    assert "where sasl.mechanism is not set" in refusal(security_protocol="sasl_ssl")


def test_javas_name_of_aws_iam_comes_with_a_hint() -> None:
    said = refusal(security_protocol="sasl_ssl", sasl_mechanism="AWS_MSK_IAM")
    assert "sasl.mechanism='OAUTHBEARER'" in said


def test_no_password_is_shown() -> None:
    said = refusal(
        security_protocol="sasl_ssl",
        sasl_mechanism="GSSAPI",
        sasl_username="user",
        sasl_password="hunter2",
        ssl_key_password="hunter2",
    )
    assert "hunter2" not in said
