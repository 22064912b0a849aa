"""Arithmetic on what agents tell about time: histograms, operations, blocked loops. No I/O but through `Reader`."""
