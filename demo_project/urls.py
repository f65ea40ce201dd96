"""HTTP addresses of the demo project."""

from django.urls import include, path

urlpatterns = [path("", include("demo_project.chat.urls"))]
