"""Settings of a worker process; the test that starts it says the rest in the environment."""

import json
import os

SECRET_KEY = "tests"
INSTALLED_APPS = os.environ["WORKER_APPS"].split(",")
DATABASES: dict[str, object] = {}
ASGI_APPLICATION = "tests.cluster.workers.project.application.application"
CHANNEL_LAYERS = {
    "default": {
        "BACKEND": "kafka_layer.layer.KafkaChannelLayer",
        "CONFIG": json.loads(os.environ["WORKER_CONFIG"]),
    },
}
LOGGING = {
    "version": 1,
    "handlers": {"console": {"class": "logging.StreamHandler"}},
    "loggers": {"kafka_layer": {"handlers": ["console"], "level": "INFO"}},
}
