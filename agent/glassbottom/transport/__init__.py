"""The way to the collector: a bounded queue, one thread that sends, one file that knows gRPC and one that knows sockets.

Probes put readings in, in their own time; nothing here ever makes them, or the application, wait.
"""
