"""Keeps secrets and personal data out of what a capture writes.

`Redactor` goes through everything before it is kept, `scan.scan` through the finished archive once more. Pure
functions from text to text: nothing here reads a file, opens a connection, or knows what an incident is.
"""

from .redactor import Redactor
from .tokens import Tokens

__all__ = ["Redactor", "Tokens"]
