from django.urls import path

from . import views

urlpatterns = [
    path("", views.join, name="join"),
    path("rooms/<str:room>/", views.room, name="room"),
    path("healthz", views.healthz, name="healthz"),
]
