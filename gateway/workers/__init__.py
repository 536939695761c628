"""Several workers on one data port: a supervisor, and processes that each run a whole gateway.

The supervisor serves no request. It holds the port, answers the admin port for all workers, starts again the
ones that die, and stops them in order. See docs/decisions/0021.
"""
