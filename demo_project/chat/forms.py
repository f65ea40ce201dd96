from collections.abc import Callable

from django import forms
from django.conf import settings
from django.utils.crypto import constant_time_compare

from .rules import (
    MAX_NAME_LENGTH,
    MAX_ROOM_LENGTH,
    MAX_TEXT_LENGTH,
    Invalid,
    clean_name,
    clean_room,
    clean_text,
)


class RuledForm(forms.Form):
    """A form whose fields follow the chat's rules."""

    def ruled(self, field: str, rule: Callable[[str], str]) -> str:
        """Return a field's value as the rule has it; what it forbids becomes a form's error."""
        try:
            return rule(self.cleaned_data[field])
        except Invalid as invalid:
            raise forms.ValidationError(str(invalid)) from None


class JoinForm(RuledForm):
    """Pick a name and a room."""

    name = forms.CharField(
        label="Your name",
        required=False,  # clean_name has the friendlier sentence
        widget=forms.TextInput(
            {"maxlength": MAX_NAME_LENGTH, "autocomplete": "nickname", "required": True}
        ),
    )
    room = forms.CharField(
        label="Room",
        required=False,
        initial="lobby",
        widget=forms.TextInput(
            {
                "maxlength": MAX_ROOM_LENGTH,
                "autocomplete": "off",
                "autocapitalize": "none",
                "spellcheck": "false",
                "required": True,
            }
        ),
    )

    def clean_name(self) -> str:
        return self.ruled("name", clean_name)

    def clean_room(self) -> str:
        return self.ruled("room", clean_room)


class StaffForm(RuledForm):
    """Something to say, for those who have the token that `manage.py demo` prints."""

    text = forms.CharField(
        label="Announcement",
        required=False,  # clean_text has the friendlier sentence
        widget=forms.Textarea({"rows": 3, "maxlength": MAX_TEXT_LENGTH, "required": True}),
    )
    token = forms.CharField(
        label="Staff token",
        required=False,
        widget=forms.TextInput(
            {
                "autocomplete": "off",
                "autocapitalize": "none",
                "spellcheck": "false",
                "required": True,
            }
        ),
    )

    def clean_text(self) -> str:
        return self.ruled("text", clean_text)

    def clean_token(self) -> str:
        token: str = self.cleaned_data["token"]
        if not settings.DEMO_STAFF_TOKEN:
            raise forms.ValidationError("This chat has no staff: DEMO_STAFF_TOKEN is not set.")
        if not constant_time_compare(token, settings.DEMO_STAFF_TOKEN):
            raise forms.ValidationError("That is not the token that manage.py demo printed.")
        return token


class PostForm(StaffForm):
    """A program's message to a room."""

    room = forms.CharField(required=False)
    name = forms.CharField(required=False, empty_value="A program")

    def clean_room(self) -> str:
        return self.ruled("room", clean_room)

    def clean_name(self) -> str:
        return self.ruled("name", clean_name)
