"""Brings another version of the configuration into force, and tells beforehand what it would change."""
