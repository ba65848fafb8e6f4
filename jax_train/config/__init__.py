"""The config: its fields, their checks, and flags that set them."""
