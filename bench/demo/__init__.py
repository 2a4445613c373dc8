"""The demo: a real gateway, the picker and real servers under load, one of which dies and comes back."""
