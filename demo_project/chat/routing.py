"""Websocket addresses of the chat."""

from django.urls import path

from .consumers import ChatConsumer

websocket_urlpatterns = [path("ws/rooms/<str:room>/", ChatConsumer.as_asgi())]
