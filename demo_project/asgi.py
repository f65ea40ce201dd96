"""The ASGI application of every worker: pages, static files, websockets, background jobs."""

import os

from channels.routing import ChannelNameRouter, ProtocolTypeRouter, URLRouter
from channels.security.websocket import AllowedHostsOriginValidator
from channels.sessions import SessionMiddlewareStack
from django.contrib.staticfiles.handlers import ASGIStaticFilesHandler
from django.core.asgi import get_asgi_application
from django.urls import path

from demo_project.board.consumers import BoardConsumer
from demo_project.chat import reports
from demo_project.chat.routing import channels, websocket_urlpatterns
from kafka_layer import urls as kafka_urls
from kafka_layer.asgi import closing

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "demo_project.settings")

# What was sent last is written when the server ends, whichever server it is.
application = closing(
    ProtocolTypeRouter(
        {
            # Serves the files of the apps directly, so that there is no collectstatic step.
            "http": ASGIStaticFilesHandler(get_asgi_application()),
            "websocket": AllowedHostsOriginValidator(
                SessionMiddlewareStack(
                    URLRouter(
                        [
                            *websocket_urlpatterns,
                            path("ws/board/", BoardConsumer.as_asgi()),
                            path("kafka/", URLRouter(kafka_urls.websocket_urlpatterns)),
                        ]
                    )
                )
            ),
            "channel": ChannelNameRouter(channels),
        }
    )
)

# Every worker imports this file, those for jobs too: so all of them are on the pages' list.
reports.start()
