"""What an answer can look like, one file per format. They know nothing of gRPC calls, flags or exit codes."""
