"""Where data comes from: one file a source, found by name in `by_name`."""
