"""The machine: prefetch, device, processes, signals, files, memory, console."""
