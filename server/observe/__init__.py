"""What is recorded of the engine's steps: Prometheus metrics, log lines, OpenTelemetry traces."""
