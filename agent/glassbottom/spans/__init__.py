"""Requests and other spans: how long they take, which were slow, which never end, and what belongs to which route.

Where the application uses OpenTelemetry, a span processor of ours (otel.py) listens beside its exporters. Where it does
not, its requests are watched at the frameworks' doors (frameworks.py) or by middleware (asgi.py, wsgi.py). Both write
into one ledger (ledger.py), and SpansProbe (probe.py) puts everything in its place and takes it away again.

Nothing of a framework or of OpenTelemetry is imported here unless the application has imported it.
"""
