from django.urls import path

from . import staff, views

urlpatterns = [
    path("", views.join, name="join"),
    path("rooms/<str:room>/", views.room, name="room"),
    path("announce/", staff.announce, name="announce"),
    path("post/", staff.post, name="post"),
    path("healthz", views.healthz, name="healthz"),
]
