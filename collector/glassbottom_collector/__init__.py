"""The collector: stores what agents see and answers what people ask."""

__version__ = "0.1.0"
