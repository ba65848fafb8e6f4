"""What a GPU or TPU does with all that the tests prove on a CPU: measured, and told in a page.

`command.py` carries pieces out, each in a process of its own; `pieces.py` says what a piece is,
`proofs.py`, `speed.py` and `recipes.py` measure, and `page.py` writes docs/accelerator.md.
"""
