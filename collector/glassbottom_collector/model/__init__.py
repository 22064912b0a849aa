"""Plain nouns, no I/O. Everything else in the collector speaks in these, and they import nothing of ours."""
