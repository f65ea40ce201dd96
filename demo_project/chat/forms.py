from collections.abc import Callable

from django import forms

from .rules import MAX_NAME_LENGTH, MAX_ROOM_LENGTH, Invalid, clean_name, clean_room


class JoinForm(forms.Form):
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
        return self._clean("name", clean_name)

    def clean_room(self) -> str:
        return self._clean("room", clean_room)

    def _clean(self, field: str, rule: Callable[[str], str]) -> str:
        try:
            return rule(self.cleaned_data[field])
        except Invalid as invalid:
            raise forms.ValidationError(str(invalid)) from None
