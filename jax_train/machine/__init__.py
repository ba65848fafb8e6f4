"""This process and its neighbours: compilation cache, memory, signals, processes, time."""
