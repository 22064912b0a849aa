"""The way to the collector: a bounded queue, one thread that sends, and one file that knows gRPC.

Probes put readings in, in their own time; nothing here ever makes them, or the application, wait.
"""
