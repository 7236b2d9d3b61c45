"""The benchmarks themselves are measured by their figures; here it is tested that they work."""
