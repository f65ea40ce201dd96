"""HTTP addresses of the demo project."""

from django.urls import include, path

from demo_project.board.views import board

urlpatterns = [
    path("", include("demo_project.chat.urls")),
    path("board/", board, name="board"),
    path("kafka/", include("kafka_layer.urls")),
]
