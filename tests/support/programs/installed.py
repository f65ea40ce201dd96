"""A project on the package as users install it, without extras; ``nox -s build`` runs it.

It has to run with ``python -I``, so that it finds the package that is installed and not the
repository's.
"""

from __future__ import annotations

import asyncio
from importlib.metadata import version
from pathlib import Path

import django
from django.conf import settings
from django.core.management import call_command

import kafka_layer


async def round_trip() -> None:
    """Send a message to a group in memory, and receive it."""
    layer = kafka_layer.get_layer("memory")
    channel = await layer.new_channel()
    await layer.group_add("room", channel)
    await layer.group_send("room", {"type": "hello"})
    assert await asyncio.wait_for(layer.receive(channel), 10) == {"type": "hello"}
    await layer.close()


def main() -> None:
    """Check the parts of which a wheel may lack files."""
    package = Path(kafka_layer.__file__).parent
    assert package.parent.name == "site-packages", package
    assert version("kafka-layer") == kafka_layer.__version__
    assert (package / "py.typed").is_file()
    settings.configure(
        INSTALLED_APPS=["kafka_layer", "channels", "django.contrib.staticfiles"],
        STATIC_URL="static/",
        CHANNEL_LAYERS={
            "default": {
                "BACKEND": "kafka_layer.layer.KafkaChannelLayer",
                "CONFIG": {"bootstrap_servers": "localhost:9092", "prefix": "shop"},
            },
            "memory": {"BACKEND": "kafka_layer.testing.InMemoryKafkaChannelLayer"},
        },
    )
    django.setup()
    call_command("check", fail_level="WARNING")
    call_command("findstatic", "kafka_layer/socket.js", verbosity=0)
    asyncio.run(round_trip())


if __name__ == "__main__":
    main()
