"""What the throughput sweep runs."""
