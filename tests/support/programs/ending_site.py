"""Settings of a Django project for ``runserver``: Django's own, or with ``LAYER_SITE`` daphne's."""

import os

SECRET_KEY = "tests"
DEBUG = True
INSTALLED_APPS = ["daphne"] if os.environ["LAYER_SITE"] == "daphne" else []
ASGI_APPLICATION = "tests.support.programs.ending_application.application"
WSGI_APPLICATION = "tests.support.programs.ending_application.wsgi"
