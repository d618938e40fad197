"""Many replicas, simulated: what routing finds in their prefix caches."""
