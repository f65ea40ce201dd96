"""Django settings of the test run; no channel layer is configured, tests make their own."""

SECRET_KEY = "tests"
INSTALLED_APPS = ["kafka_layer", "channels"]
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}
USE_TZ = True
