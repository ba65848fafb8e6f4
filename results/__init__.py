"""The runs whose figures the documentation shows: what is trained, and the tables made of it."""
