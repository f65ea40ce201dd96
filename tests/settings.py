"""Django settings of the test run; no channel layer is configured, tests make their own."""

import os
import sys

# The processes that tests start compile the package once, not each of them anew: half their start.
# Here, because Django loads the package before pytest loads any conftest.py.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

SECRET_KEY = "tests"
INSTALLED_APPS = ["kafka_layer", "channels"]
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}
USE_TZ = True
