"""Holds sitecustomize.py, which `glassbottom check-leak` puts in the way of the program. Imports nothing."""
