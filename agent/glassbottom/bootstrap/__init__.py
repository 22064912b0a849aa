"""Holds sitecustomize.py, which `glassbottom run` puts in the way of starting interpreters. Imports nothing."""
