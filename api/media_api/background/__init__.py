"""Tasks of a process that run beside its requests: they read events and jobs for all who wait, and send webhooks."""
