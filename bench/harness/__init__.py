"""What the benchmarks share: processes of their own, peers, checks, a simulated user, tables."""
