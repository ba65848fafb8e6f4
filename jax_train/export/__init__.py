"""Models for use without this package: files of other runtimes, folders of other libraries."""
