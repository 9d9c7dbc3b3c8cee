"""What HES tells of itself over OpenTelemetry: traces and metrics. Logs are `hes.log`'s, and get the trace's ids."""
