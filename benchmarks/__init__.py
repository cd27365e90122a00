"""What the balancer costs and how well it places, measured: `python -m benchmarks NAME [--json]`."""
