"""Websocket addresses of the chat, and its worker channels."""

from django.urls import path

from . import jobs
from .consumers import ChatConsumer

websocket_urlpatterns = [path("ws/rooms/<str:room>/", ChatConsumer.as_asgi())]

channels = {jobs.CHANNEL: jobs.JobConsumer.as_asgi()}
