"""Settings of the demo project. All that differs between machines comes from the environment.

KAFKA_BOOTSTRAP_SERVERS  the broker, `localhost:9092` by default
DEMO_PREFIX              first part of the topics' names, `demo` by default
DEMO_WORKER              what this worker process is called on the page
DEMO_STAFF_TOKEN         who knows it may announce, post and see the servers; without it nobody may
DEMO_EMBEDDED_BROKER     set by `manage.py demo` when it runs a broker of its own
KAFKA_CA_FILE            the authority of a Kafka with TLS, which wants a client's certificate
KAFKA_CERTIFICATE_FILE   this process's certificate
KAFKA_KEY_FILE           the key of that certificate
DJANGO_ALLOWED_HOSTS     host names to answer to besides localhost, separated by commas
DJANGO_SECRET_KEY        must be the same in all workers; made up when it is missing
DJANGO_DEBUG             `1` for Django's error pages and the button that ends a worker
"""

import os
from pathlib import Path
from typing import Any

from django.core.management.utils import get_random_secret_key

from demo_project import market

BASE_DIR = Path(__file__).resolve().parent

DEBUG = os.environ.get("DJANGO_DEBUG") == "1"
# A made-up key keeps a secret out of the repository. It ends with the process, and the
# names that people chose with it: `manage.py demo` hands one key to all its workers.
SECRET_KEY = os.environ.get("DJANGO_SECRET_KEY") or get_random_secret_key()
ALLOWED_HOSTS = [
    "localhost",
    "127.0.0.1",
    *filter(None, os.environ.get("DJANGO_ALLOWED_HOSTS", "").split(",")),
]

INSTALLED_APPS = [
    "daphne",
    "kafka_layer",  # before channels, for a runworker that finishes its job when it is stopped
    "channels",
    "django.contrib.sessions",
    "django.contrib.staticfiles",
    "demo_project.board",
    "demo_project.chat",
]

MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]

ROOT_URLCONF = "demo_project.urls"
ASGI_APPLICATION = "demo_project.asgi.application"

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {"context_processors": ["django.template.context_processors.request"]},
    }
]

# Signed cookies hold the names that a browser chose: the demo needs no database.
DATABASES: dict[str, Any] = {}
SESSION_ENGINE = "django.contrib.sessions.backends.signed_cookies"
# Cookies belong to a host, not to a port: the defaults would log out other local projects.
SESSION_COOKIE_NAME = "demo_session"
CSRF_COOKIE_NAME = "demo_csrf"

STATIC_URL = "static/"
USE_TZ = True

DEMO_WORKER = os.environ.get("DEMO_WORKER", "worker")
DEMO_STAFF_TOKEN = os.environ.get("DEMO_STAFF_TOKEN", "")
# Nothing for a site that others can reach: demo_project/chat/crash.py says why.
DEMO_KILL_BUTTON = DEBUG
DEMO_EMBEDDED_BROKER = os.environ.get("DEMO_EMBEDDED_BROKER") == "1"

KAFKA_LAYER: dict[str, Any] = {
    "bootstrap_servers": os.environ.get("KAFKA_BOOTSTRAP_SERVERS", "localhost:9092"),
    "prefix": os.environ.get("DEMO_PREFIX", "demo"),
    "dashboard_access": "demo_project.chat.staff.may_look",
    # Named here, it is among the topics that kafka_setup_topics makes.
    "worker_channels": {"jobs": {"partitions": 4}},
    # A topic of another program: each record goes to the boards that show its key.
    "streams": {
        "prices": {
            "topic": market.TOPIC,
            "group": "price-{key}",
            "type": "price.changed",
            "where": "demo_project.board.consumers.is_price",
            "last_value": True,
        },
    },
}
if "KAFKA_CA_FILE" in os.environ:
    KAFKA_LAYER["client_config"] = {
        "security.protocol": "SSL",
        "ssl.ca.location": os.environ["KAFKA_CA_FILE"],
        "ssl.certificate.location": os.environ["KAFKA_CERTIFICATE_FILE"],
        "ssl.key.location": os.environ["KAFKA_KEY_FILE"],
    }
if DEMO_EMBEDDED_BROKER:
    from kafka_layer.testing import EmbeddedBroker

    KAFKA_LAYER |= EmbeddedBroker().client_settings

CHANNEL_LAYERS = {
    "default": {"BACKEND": "kafka_layer.layer.KafkaChannelLayer", "CONFIG": KAFKA_LAYER}
}

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"format": "%(levelname)s %(name)s: %(message)s"}},
    "handlers": {"console": {"class": "logging.StreamHandler", "formatter": "line"}},
    "root": {"handlers": ["console"], "level": "WARNING"},
    "loggers": {
        "kafka_layer": {"level": "INFO"},
        # A mistyped room is no event for the operator.
        "django.request": {"level": "ERROR"},
    },
}
