"""FusionBench: fuse deep models and benchmark the result."""
