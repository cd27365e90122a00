"""Per provider: bytes and headers in, `Evidence` and `Demand` out. Pure."""
