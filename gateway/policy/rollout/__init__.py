"""A new policy put into force: compared with the traffic of the past, reloaded, kept, and led back."""
