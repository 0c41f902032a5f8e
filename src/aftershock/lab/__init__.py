"""The embedded lab: zones, gateway, model servers, Kubernetes API and GPUs on one machine."""
