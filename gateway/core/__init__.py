"""The rules of the gateway as pure values and functions. No I/O, no clock, no environment."""
