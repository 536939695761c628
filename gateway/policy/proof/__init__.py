"""Prove a configuration: no request of a class reaches a zone that the class must not, on any path.

The requests that a policy can tell apart are finitely many: model, key, feature, class, endpoint,
modalities, capabilities, which rule holds, what has retired, what is down. All of them are put to the routes
that serves, and what it answers is compared with the file. Conditions are taken as possibly true, except
where keys, features, classes, modalities and tools alone decide them.

What a plan lists is all that any path can use (rule, objective, retry, failover, successor), so a plan is
safe when every zone in it is.
"""
