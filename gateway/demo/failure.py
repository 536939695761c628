"""How the demo fails."""


class DemoFailed(RuntimeError):
    """Something came out differently from what the demo shows. The message is one line for a person."""
