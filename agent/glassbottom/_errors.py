"""Everything the agent can raise on purpose. Nothing here is ever raised into an application that did not ask.

* GlassbottomError
  + ConfigError            a setting is wrong; the message says which and what would be right
  + CollectorUnavailable   the connection could not be made or was lost; the agent tries again by itself
  + CaptureError           nothing came of a deep capture; the message goes to the person who asked for it
"""

from __future__ import annotations


class GlassbottomError(Exception):
    """Base of all errors of the agent. The message is one sentence for a person."""


class ConfigError(GlassbottomError):
    """A setting is wrong."""


class CollectorUnavailable(GlassbottomError):  # noqa: N818 - a state that may pass, as in the collector's tree
    """The collector cannot be reached now."""


class CaptureError(GlassbottomError):
    """Nothing came of a deep capture."""
