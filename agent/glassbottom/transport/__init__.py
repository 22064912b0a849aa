"""The way to the collector: a bounded queue, one thread that sends, one file for gRPC and one for the socket.

Probes put readings in, in their own time; nothing here ever makes them, or the application, wait.
"""
