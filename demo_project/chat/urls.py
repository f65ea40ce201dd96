from django.urls import path

from . import crash, staff, views

urlpatterns = [
    path("", views.join, name="join"),
    path("rooms/<str:room>/", views.room, name="room"),
    path("announce/", staff.announce, name="announce"),
    path("post/", staff.post, name="post"),
    path("end-worker/", crash.end_worker, name="end-worker"),
    path("healthz", views.healthz, name="healthz"),
]
