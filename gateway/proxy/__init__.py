"""One request, in reading order: handler, pipeline, auth, classify, failover, dispatch, attempt."""
