"""Programs as users of client libraries write them. They run in the environments of those libraries."""
