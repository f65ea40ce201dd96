"""A link to the page for staff among the apps of Django's admin."""

from __future__ import annotations

from typing import Any

from django.apps import apps
from django.contrib import admin
from django.http import HttpRequest, HttpResponseRedirect
from django.urls import NoReverseMatch, URLPattern, path, reverse

from . import get_layer
from .dashboard.access import aliases, may_look

__all__ = ["PageAdmin"]


class _Servers:
    """Stands for a model, so that the admin shows a link; it has no table and no migration."""

    class _Meta:
        app_label = "kafka_layer"
        object_name = "Servers"
        model_name = "servers"
        verbose_name = verbose_name_plural = "servers"
        abstract = swapped = is_composite_pk = False

        @property
        def app_config(self) -> Any:
            return apps.get_app_config(self.app_label)

        @property
        def label(self) -> str:
            return f"{self.app_label}.{self.object_name}"

        @property
        def label_lower(self) -> str:
            return self.label.lower()

    _meta = _Meta()


class PageAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """Links to the page, for users who may see it, if ``kafka_layer.urls`` is included."""

    def get_urls(self) -> list[URLPattern]:
        """Return the address of the link."""
        return [path("", self._lead, name="kafka_layer_servers_changelist")]

    def check(self, **kwargs: Any) -> list[Any]:
        """Find nothing: the checks are for models."""
        return []

    def has_module_permission(self, request: HttpRequest) -> bool:
        """Tell whether the request may see the page."""
        try:
            reverse("kafka_layer:page")
        except NoReverseMatch:
            return False
        return any(may_look(get_layer(alias).config, request) for alias in aliases()[:1])

    def get_model_perms(self, request: HttpRequest) -> dict[str, bool]:
        """Allow to look, and nothing else."""
        return {"add": False, "change": False, "delete": False, "view": True}

    def _lead(self, request: HttpRequest) -> HttpResponseRedirect:
        return HttpResponseRedirect(reverse("kafka_layer:page"))


admin.site.register([_Servers], PageAdmin)
