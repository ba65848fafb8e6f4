"""`python -m jax_train COMMAND`: one file a command, with its arguments, its call and its text.

What a command needs is imported when it runs, so that `--help` stays quick.
"""
