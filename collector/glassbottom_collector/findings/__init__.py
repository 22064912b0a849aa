"""What is wrong with a service besides memory: each subject has a module, `finder` asks them all.

The rule of the house: never invent a finding. Every subject abstains, with a note, when the data are too short, and a
growth is told only when it passes the tests that an accusation of memory passes (leaks/verdict.py).
"""
